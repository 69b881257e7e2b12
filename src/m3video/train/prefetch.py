"""Copy the next batch to a GPU while the step before it runs.

A step waits for the GPU once, at its end. Copied on the stream of the step, a batch would therefore
be sent only then, and waited for; on a stream of its own it is sent while the step computes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from m3video.errors import RunFailedError
from m3video.video.loader import Clips


def prefetch(batches: Iterator[Clips], device: torch.device) -> Iterator[Clips]:
    """Batches on their way to a GPU, one ahead; on other devices the batches as they are."""
    return Prefetcher(batches, device) if device.type == "cuda" else batches


class Prefetcher:
    """An iterator of batches on a GPU: the same ones in the same order.

    An error of the batch ahead is raised when that batch is asked for, so that the one before it is
    still trained on.

    Args:
        batches: in page-locked memory, without which copying waits for the GPU.
        device: a CUDA device.
    """

    def __init__(self, batches: Iterator[Clips], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._ahead: Clips | None = None
        self._error: Exception | None = None
        self._begun = False

    def __iter__(self) -> Iterator[Clips]:
        return self

    def __next__(self) -> Clips:
        if not self._begun:
            self._begun = True
            self._send()
        if self._error is not None:
            raise self._error
        clips = self._ahead
        assert clips is not None
        step = torch.cuda.current_stream(self._device)
        step.wait_stream(self._stream)
        clips.record_stream(step)  # else its memory could be given away while the step reads it
        self._send()
        return clips

    def _send(self) -> None:
        """Begin to copy the batch ahead."""
        self._ahead = None
        try:
            clips = next(self._batches)
        except Exception as error:  # the end, too
            self._error = error
            return
        try:
            with torch.cuda.stream(self._stream):
                self._ahead = clips.to(self._device, non_blocking=True)
        except torch.OutOfMemoryError:
            self._error = RunFailedError(
                f"the next batch finds no room in the memory of {self._device}: use a smaller "
                "train.batch, or a larger train.accumulate"
            )
