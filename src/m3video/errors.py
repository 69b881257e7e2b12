"""The errors a user can meet. A message is one line: the value, what is allowed, what to do."""

from typing import Self


class M3VideoError(Exception):
    """Base of the errors that the command line shows as one line, with exit code 2.

    Attributes:
        said: whether another process of the run shows it; None: the first process does.
    """

    said: bool | None = None


class ConfigError(M3VideoError):
    """A setting that is not allowed, or two settings that contradict each other."""


class CellError(ConfigError):
    """Settings of a cell of a study that are not allowed."""


class VideoError(M3VideoError):
    """A file that cannot be read as a video. The message starts with the path.

    Attributes:
        frame: the first one that cannot be decoded, where that is what is wrong.
    """

    def __init__(self, message: str, *, frame: int | None = None) -> None:
        super().__init__(message)
        self.frame = frame


class ManifestError(M3VideoError):
    """A list of videos that cannot be understood. The message names the file and the line."""


class CheckpointError(M3VideoError):
    """Weights or a run directory that cannot be used."""


class NotWrittenError(CheckpointError):
    """Weights that cannot be written, such as on a full disk. The message starts with the path.

    Attributes:
        errno: of the file system's error, where it was one; it travels between processes.
    """

    errno: int | None = None

    @classmethod
    def of(cls, message: str, error: BaseException) -> Self:
        """With the number of the error that it comes of."""
        made = cls(message)
        made.errno = getattr(error, "errno", None)
        return made


class RunFailedError(M3VideoError):
    """A run that could not go on, though nothing is wrong with the input; exit code 1."""


class LostProcessError(RunFailedError):
    """Another process of the run has ended, or cannot be reached; exit code 75."""


class UnreachableError(RunFailedError):
    """A server that videos lie on does not answer; the message starts with the URL."""


class DivergedError(RunFailedError):
    """Training stopped because the loss was not finite several steps in a row."""


class TooManyUnreadableError(M3VideoError):
    """More videos could not be read than the run tolerates."""


class StoppedError(KeyboardInterrupt):
    """A signal other than Ctrl-C asked the process to end; what it had done is saved.

    Attributes:
        number: of the signal; the exit code is 128 more.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
