"""An encoder of one clip size -> the same encoder for clips of another."""

from __future__ import annotations

import copy

from pydantic import ValidationError

from m3video.config import ClipConfig, one_line
from m3video.errors import ConfigError
from m3video.model.vit import VisionTransformer


def resize_encoder(encoder: VisionTransformer, clip: ClipConfig) -> VisionTransformer:
    """The same weights for clips of other frames and other height and width.

    Positions are those of the grid that the encoder was trained on, stretched over the new one
    (`m3video.model.positions`); an encoder that was resized before is resized from there, so the
    way that led to a size does not matter. The result can be saved and loaded.

    Args:
        encoder: any encoder, on any device; it is left as it is. For a classifier, give its
            `encoder`, and put the result in its place.
        clip: the clips to read; its stride is free, tubelet and patch are the encoder's.

    Returns:
        A new encoder on the same device, in the same mode (training or evaluation).

    Raises:
        ConfigError: another tubelet or patch, which are part of the weights.
    """
    for name in ("tubelet", "patch"):
        built, wanted = getattr(encoder.clip, name), getattr(clip, name)
        if built != wanted:
            raise ConfigError(
                f"{name} {wanted}: the encoder was built for {name} {built}; only frames, size and "
                "stride can be changed"
            )
    resized = copy.deepcopy(encoder)
    resized.place_tokens(clip, encoder.position_grid)
    return resized


def fit_clips(
    encoder: VisionTransformer,
    *,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    stride: int | None = None,
) -> VisionTransformer:
    """The encoder for clips of other frames, height and width, or stride; None: as they are.

    Raises:
        ConfigError: frames or sizes that are no multiples of tubelet and patch.
    """
    wanted = {"frames": frames, "size": size, "stride": stride}
    changes = {name: value for name, value in wanted.items() if value is not None}
    try:
        clip = ClipConfig.model_validate({**encoder.clip.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(one_line(error)) from None
    return resize_encoder(encoder, clip)
