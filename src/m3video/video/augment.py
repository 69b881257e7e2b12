"""Crop, resize and mirror uint8 frames; turn them into what the encoder reads.

- One decision per clip: all frames share the crop and the flip.
- A crop has the aspect of the target size, so nothing is stretched (to the rounding of a pixel).
- It is done before motion is computed, so motion is in the pixels that the model sees.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import ConfigError

MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue, of pixels in 0 … 1."""
STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's red, green and blue, of pixels in 0 … 1."""

Box = tuple[int, int, int, int]
"""Top, left, height, width, in pixels."""


def _fit(height: int, width: int, size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width of `scale` × the largest crop of `size`'s aspect that fits."""
    zoom = scale * min(height / size[0], width / size[1])
    return (
        min(max(round(size[0] * zoom), 1), height),
        min(max(round(size[1] * zoom), 1), width),
    )


def multi_scale_crop(
    height: int,
    width: int,
    size: tuple[int, int],
    scales: tuple[float, ...],
    generator: torch.Generator,
) -> Box:
    """Draw a crop: one of `scales` of the largest crop of `size`'s aspect, anywhere in the frame.

    Multi-scale cropping as in TSN (arXiv 1608.00859), but with the aspect kept.
    """
    scale = scales[int(torch.randint(len(scales), (), generator=generator))]
    crop_height, crop_width = _fit(height, width, size, scale)
    top = int(torch.randint(height - crop_height + 1, (), generator=generator))
    left = int(torch.randint(width - crop_width + 1, (), generator=generator))
    return top, left, crop_height, crop_width


@dataclass(frozen=True)
class Crop:
    """What is done to every frame of a clip: cut a box out, resize it, mirror it left to right."""

    box: Box
    size: tuple[int, int]
    """Height and width of the result."""
    flip: bool = False

    def into(self, frame: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Apply to one frame, uint8 [H, W, 3], and write to `out`, uint8 [h, w, 3].

        Up to half the size, interpolation is bilinear: it still touches every source pixel, and it
        costs a quarter of the area average, which is used where bilinear would skip pixels.
        """
        top, left, crop_height, crop_width = self.box
        height, width = self.size
        less_than_half = crop_height > 2 * height or crop_width > 2 * width
        interpolation = cv2.INTER_AREA if less_than_half else cv2.INTER_LINEAR
        crop = frame[top : top + crop_height, left : left + crop_width]
        cv2.resize(crop, (width, height), dst=out, interpolation=interpolation)
        if self.flip:
            cv2.flip(out, 1, dst=out)

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Apply to all frames: uint8 [R, H, W, 3] → [R, h, w, 3], contiguous."""
        out = np.empty((len(frames), *self.size, 3), np.uint8)
        for frame, row in zip(frames, out, strict=True):
            self.into(frame, row)
        return out


def random_crop(
    height: int,
    width: int,
    size: tuple[int, int],
    config: AugmentConfig,
    generator: torch.Generator,
) -> Crop:
    """Draw the crop and flip of a clip of height × width pixels."""
    box = multi_scale_crop(height, width, size, config.scales, generator)
    flip = config.flip and bool(torch.randint(2, (), generator=generator))
    return Crop(box, size, flip)


def largest_crop(height: int, width: int, size: tuple[int, int]) -> Crop:
    """The largest centred crop of `size`'s aspect."""
    crop_height, crop_width = _fit(height, width, size, 1.0)
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return Crop((top, left, crop_height, crop_width), size)


def centre_crop(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """The largest centred crop of `size`'s aspect, resized: uint8 [R, H, W, 3] → [R, h, w, 3]."""
    _, height, width, _ = frames.shape
    return largest_crop(height, width, size)(frames)


def normalise(frames: Tensor) -> Tensor:
    """What the encoder reads: uint8 [..., T, H, W, 3] → float32 [..., 3, T, H, W]."""
    mean, std = _mean_and_std(frames.device)
    return ((frames.float() - mean) / std).movedim(-1, -4)


@lru_cache(maxsize=16)
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """Of pixels in 0 … 255; made once a device, since a copy to it would be waited for."""
    with torch.inference_mode(False):  # in that mode they could be used in no other
        return torch.tensor(MEAN, device=device) * 255, torch.tensor(STD, device=device) * 255


def check_frames(frames: Tensor) -> None:
    """Refuse what is not frames as `read_frames` gives them, uint8 [S, H, W, 3].

    Raises:
        ConfigError: not such a tensor.
    """
    if not isinstance(frames, Tensor):
        raise ConfigError(
            f"frames are a {type(frames).__name__}: give a torch tensor, as read_frames does"
        )
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ConfigError(
            f"frames of {frames.dtype} {list(frames.shape)}: give uint8 [frames, height, width, "
            "3], as read_frames does"
        )


def to_clip(frames: Tensor, clip: ClipConfig, *, start: int = 0) -> Tensor:
    """Frames of a video, as `read_frames` gives them, as the input of an encoder.

    Args:
        frames: uint8 [S, H, W, 3] at the raw frame rate.
        clip: the encoder's `clip`: T frames, `stride` apart, of which size.
        start: the first of them.

    Returns:
        float32 [1, 3, T, h, w]: the largest centred crop, resized and normalised.

    Raises:
        ConfigError: not such frames, or too few.
    """
    check_frames(frames)
    rows = frames[start :: clip.stride][: clip.frames] if start >= 0 else frames[:0]
    if len(rows) < clip.frames:
        span = (clip.frames - 1) * clip.stride + 1
        raise ConfigError(
            f"{len(frames)} frames from frame {start}: the encoder reads {clip.frames} frames "
            f"{clip.stride} apart, so give {span} from there"
        )
    cropped = centre_crop(rows.cpu().numpy(), clip.size)
    return normalise(torch.from_numpy(cropped))[None]
