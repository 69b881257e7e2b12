"""The errors a user can meet. A message is one line: the value, what is allowed, what to do."""


class M3VideoError(Exception):
    """Base of the errors that are the input's fault; the command line shows them and exits 2."""


class ConfigError(M3VideoError):
    """A setting that is not allowed, or two settings that contradict each other."""


class VideoError(M3VideoError):
    """A file that cannot be read as a video. The message starts with the path."""


class ManifestError(M3VideoError):
    """A list of videos that cannot be understood. The message names the file and the line."""


class CheckpointError(M3VideoError):
    """Weights or a run directory that cannot be used."""


class DivergedError(M3VideoError):
    """Training stopped because the loss was not finite several steps in a row."""


class TooManyUnreadableError(M3VideoError):
    """More videos could not be read than the run tolerates."""
