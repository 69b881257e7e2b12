"""Videos in columns: a few long arrays in place of objects.

A `Video` is some ten Python objects, of 1.5 kB together. Every process of a run holds its manifest,
and to read an object is to write its count of references: a data worker that is forked soon has
most of the manifest's pages to itself. With a million videos, 8 processes and 16 data workers each
that would be more than 100 GB. Arrays are read without being written to, so workers share them; a
`Video` is made when one is asked for.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

from m3video.video.scan import Video

_REMEMBERED = 2**16
"""Texts of a column that are found again while columns are made. There are fewer labels and splits;
ids are more, and do not repeat."""


class _Texts:
    """Strings by number, in one buffer."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("q")

    def add(self, text: str) -> int:
        """Keep a text; its number."""
        # Unlike `surrogateescape`, of which two strings may have the same bytes, this is exact.
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))
        return len(self._ends) - 1

    def add_once(self, text: str, known: dict[str, int]) -> int:
        """Keep a text unless it is known; its number."""
        number = known.get(text)
        if number is None:
            number = self.add(text)
            if len(known) < _REMEMBERED:
                known[text] = number
        return number

    def __getitem__(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return self._bytes[start : self._ends[number]].decode("utf-8", "surrogatepass")


class Videos(Sequence[Video]):
    """Videos that take little memory; a slice is one, too.

    Args:
        videos: they are gone through once, and not kept.
    """

    def __init__(self, videos: Iterable[Video] = ()) -> None:
        self._paths = _Texts()  # the video's number is that of its path
        self._frames = array("q")
        self._fps = array("d")
        self._width = array("q")
        self._height = array("q")
        self._duration = array("d")
        self._words = _Texts()  # of labels and extra columns
        self._labels = array("q")  # numbers of words; -1: it has none
        self._extra = array("q")  # numbers of words: name, value, name, value … of video by video
        self._extra_ends = array("q")
        names: dict[str, int] = {}
        labels: dict[str, int] = {}
        values: dict[str, dict[str, int]] = defaultdict(dict)
        for video in videos:
            self._paths.add(str(video.path))
            self._frames.append(video.frames)
            self._fps.append(video.fps)
            self._width.append(video.width)
            self._height.append(video.height)
            self._duration.append(video.duration)
            label = video.label
            self._labels.append(-1 if label is None else self._words.add_once(label, labels))
            for name, value in video.extra.items():
                self._extra.append(self._words.add_once(name, names))
                self._extra.append(self._words.add_once(value, values[name]))
            self._extra_ends.append(len(self._extra))

    @property
    def labels(self) -> set[str]:
        """All labels."""
        return {self._words[number] for number in set(self._labels) if number >= 0}

    @property
    def paths(self) -> Iterator[Path]:
        """Where they are, in order."""
        return (Path(self._paths[number]) for number in range(len(self)))

    @property
    def frames(self) -> Sequence[int]:
        """How many frames each has; 0 of those that were not opened."""
        return self._frames

    def __len__(self) -> int:
        return len(self._frames)

    @overload
    def __getitem__(self, index: int) -> Video: ...

    @overload
    def __getitem__(self, index: slice) -> Videos: ...

    def __getitem__(self, index: int | slice) -> Video | Videos:
        numbers = range(len(self))[index]  # knows of negative ones, and refuses what is outside
        if isinstance(numbers, range):
            return Videos(self._video(number) for number in numbers)
        return self._video(numbers)

    def _video(self, number: int) -> Video:
        label = self._labels[number]
        first = self._extra_ends[number - 1] if number else 0
        extra = self._extra[first : self._extra_ends[number]]
        words = [self._words[word] for word in extra]
        return Video(
            Path(self._paths[number]),
            frames=self._frames[number],
            fps=self._fps[number],
            width=self._width[number],
            height=self._height[number],
            duration=self._duration[number],
            label=None if label < 0 else self._words[label],
            extra=dict(zip(words[::2], words[1::2], strict=True)),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Videos | tuple):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a `Video` has none

    def __repr__(self) -> str:
        return f"Videos({list(self)!r})"
