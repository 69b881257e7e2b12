"""Which tokens are hidden from the encoder, and which of those are decoded. True means hidden.

A ratio r of n hides ⌊r·n⌋ of them (VideoMAE's rule: 0.9 of 14 × 14 is 176). Counts are exact, known
before anything is drawn, and the same for every clip of a batch:

    kind                 n                           hidden tokens
    tube, motion-bins    places in a frame (P)       time · ⌊r·P⌋, the same places in every frame
    motion-top           places in a frame           time · ⌊r·P⌋, as many in every frame
    frame                frames of tokens (time)     P · ⌊r·time⌋
    random, block        tokens (time · P)           ⌊r·time·P⌋

A frame here is a frame of tokens: `tubelet` input frames.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m3video.config import MaskConfig
from m3video.errors import ConfigError

Grid = tuple[int, int, int]
"""Token grid (time, rows, columns)."""

BLOCKS = 64
"""Blocks of a block mask. Tokens that none of them covers come last, in random order."""
SMALLEST_BLOCK = 1 / 12
"""Share of the places that a block covers at least: 16 of 14 × 14."""
ASPECT = 0.3
"""Least height / width of a block; the greatest is its inverse."""
STILL = 1e-3
"""Motion below this share of a clip's mean counts as none."""
CELL_STEP = 1 << 16
CELL_STARTS = 4 * CELL_STEP
"""`decode_mask` can start in so many ways: 4 phases, each with an order of its tokens."""


def _count(ratio: float, total: int, what: str) -> int:
    # 0.29 · 100 is 28.999…96 in floating point; what was meant is 29.
    count = int(ratio * total + 1e-9)
    if not 0 < count < total:
        allowed = "" if total == 1 else f"a ratio from {1 / total:.3g} to {1 - 1 / total:.3g}, or "
        raise ConfigError(
            f"mask ratio {ratio} hides {count} of {total} {what}; at least one must be hidden and "
            f"one visible: choose {allowed}another kind of mask, a larger clip or smaller patches"
        )
    return count


def hidden_count(config: MaskConfig, tokens: Grid) -> int:
    """How many of a clip's tokens are hidden.

    Raises:
        ConfigError: none or all of them.
    """
    time, rows, columns = tokens
    places = rows * columns
    if config.kind == "frame":
        return places * _count(config.ratio, time, "frames of tokens")
    if config.kind in {"random", "block"}:
        return _count(config.ratio, time * places, "tokens")
    return time * _count(config.ratio, places, "places")


def decoded_count(config: MaskConfig, tokens: Grid) -> int:
    """How many of a clip's hidden tokens are decoded: ⌊decode · hidden⌋, at least one.

    Raises:
        ConfigError: none or all of the tokens are hidden.
    """
    return max(1, int(config.decode * hidden_count(config, tokens) + 1e-9))


def make_mask(
    config: MaskConfig,
    tokens: Grid,
    generator: torch.Generator,
    batch: int = 1,
    motion: Tensor | None = None,
) -> Tensor:
    """A mask as configured: bool [batch, N], True where hidden.

    Args:
        config: what is hidden.
        tokens: the token grid.
        generator: of everything that is drawn.
        batch: clips.
        motion: [batch, N], how far each token moves (any unit); for the kinds motion-bins and
            motion-top.

    Raises:
        ConfigError: the ratio hides nothing or everything, or motion is missing.
    """
    if config.needs_tracks:
        if motion is None:
            raise ConfigError(
                f"mask kind {config.kind} needs the motion of each token and got none: give "
                "make_mask motion [B, N], or use tube, random, frame or block"
            )
        return motion_mask(config, tokens, motion, mask_noise(tokens, generator, batch))
    draw = {"tube": tube_mask, "random": random_mask, "frame": frame_mask, "block": block_mask}
    return draw[config.kind](batch, tokens, config.ratio, generator)


def _hide_first(keys: Tensor, count: int) -> Tensor:
    """Along the last dimension, True at the `count` smallest keys."""
    first = keys.argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(-1, first, True)


def tube_mask(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """The same places hidden in every frame (arXiv 2203.12602, 3.3): bool [B, N].

    Raises:
        ConfigError: the ratio hides none or all of the rows × columns places.
    """
    time, rows, columns = tokens
    count = _count(ratio, rows * columns, "places")
    return _hide_first(torch.rand(batch, rows * columns, generator=generator), count).repeat(
        1, time
    )


def random_mask(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """Tokens hidden anywhere in space and time: bool [B, N].

    Raises:
        ConfigError: the ratio hides none or all of the tokens.
    """
    time, rows, columns = tokens
    total = time * rows * columns
    return _hide_first(
        torch.rand(batch, total, generator=generator), _count(ratio, total, "tokens")
    )


def frame_mask(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """Whole frames hidden (the ablation of arXiv 2203.12602, 4.2): bool [B, N].

    Raises:
        ConfigError: the ratio hides none or all of the frames.
    """
    time, rows, columns = tokens
    count = _count(ratio, time, "frames of tokens")
    hidden = _hide_first(torch.rand(batch, time, generator=generator), count)
    return hidden.repeat_interleave(rows * columns, dim=1)


def block_mask(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """Blocks of space and time hidden, as the cubes of MaskFeat (arXiv 2112.09133): bool [B, N].

    A block is a rectangle in a number of consecutive frames: its area is drawn from 1/12 of the
    places (or the ratio, if that is less) to the ratio, its aspect log-uniformly from 0.3 to 1/0.3,
    its frames from 1 to all. Blocks are laid until the count is reached; of the last one's tokens
    only as many are hidden as are wanted, drawn at random. Blocks may stick out of the clip, so
    that its edges are covered as often as its middle.

    Raises:
        ConfigError: the ratio hides none or all of the tokens.
    """
    time, rows, columns = tokens
    total = time * rows * columns
    count = _count(ratio, total, "tokens")
    blocks = _first_blocks(batch, tokens, ratio, generator)
    return _hide_first(torch.rand(batch, total, generator=generator) - blocks, count)


def _first_blocks(batch: int, tokens: Grid, ratio: float, generator: torch.Generator) -> Tensor:
    """Which block is the first to cover each token: uint8 [B, N], from BLOCKS down to 0 (none)."""
    time, rows, columns = tokens
    share, aspect, frames, *starts = torch.rand(6, batch, BLOCKS, generator=generator)
    least = min(SMALLEST_BLOCK, ratio)
    area = (least + (ratio - least) * share) * rows * columns
    height = (area * ASPECT ** (2 * aspect - 1)).sqrt().round().clamp(1, rows)
    width = (area / height).round().clamp(1, columns)
    height = (area / width).round().clamp(1, rows)  # where the frame is too narrow, taller
    sizes = ((frames * time).floor() + 1, height, width)
    inside = []
    for extent, size, start in zip(tokens, sizes, starts, strict=True):
        begin = (start * (extent + size - 1)).floor() - size + 1
        offset = torch.arange(extent) - begin[..., None]
        inside.append((offset >= 0) & (offset < size[..., None]))  # [B, BLOCKS, extent]
    in_frame = (inside[1][..., None] & inside[2][..., None, :]).flatten(2)
    # Numbered downwards, the first block is the greatest of those that cover a token.
    in_time = inside[0] * torch.arange(BLOCKS, 0, -1, dtype=torch.uint8)[:, None]
    covered: Tensor = in_time[..., None] * in_frame[:, :, None]  # [B, BLOCKS, time, places]
    return covered.amax(dim=1).flatten(1)


def mask_noise(tokens: Grid, generator: torch.Generator, batch: int = 1) -> Tensor:
    """All that is drawn for a motion mask: float32 [B, 2, N], uniform in [0, 1).

    Of the two numbers of a token, the first orders tokens of equal motion, the second decides which
    are drawn. Drawn with the sample, so that the motion itself can come later, on any device.
    """
    time, rows, columns = tokens
    return torch.rand(batch, 2, time * rows * columns, generator=generator)


def motion_mask(config: MaskConfig, tokens: Grid, motion: Tensor, noise: Tensor) -> Tensor:
    """A mask that follows motion: bool [B, N]. On a GPU nothing in it waits for the device.

    Counts are exact whatever the motion is; what is not finite or negative counts as still, and
    without any motion the mask is random.

    Args:
        config: of kind motion-bins or motion-top.
        tokens: the token grid.
        motion: float [B, N], how far each token moves (any unit).
        noise: float32 [B, 2, N] of `mask_noise`, on the device of motion.

    Raises:
        ConfigError: the ratio hides none or all of the places, or shapes do not fit.
    """
    time, rows, columns = tokens
    places = rows * columns
    if motion.dim() != 2 or motion.shape[1] != time * places:
        raise ConfigError(
            f"motion is {list(motion.shape)}, and the mask wants [B, {time * places}]: one number "
            f"for each of {time}×{rows}×{columns} tokens"
        )
    if noise.shape != (len(motion), 2, time * places):
        raise ConfigError(
            f"noise is {list(noise.shape)}, and motion of {len(motion)} clips wants "
            f"[{len(motion)}, 2, {time * places}]: see mask_noise"
        )
    count = _count(config.ratio, places, "places")
    known = motion.float().nan_to_num(0, 0, 0).clamp(min=0).view(-1, time, places)
    if config.kind == "motion-bins":
        return _bins(known.mean(dim=1), noise[..., :places], count, config.high).repeat(1, time)
    return _top(known, noise[:, 1].view_as(known), count).flatten(1)


def _bins(motion: Tensor, noise: Tensor, count: int, high: float) -> Tensor:
    """Hide all places but some of the moving and some of the still half (TrackMAE, CVPR 2026).

    Places are ranked by their mean motion; ⌈P / 2⌉ are the moving half. Of the visible places
    ⌊high · visible⌋ are drawn from it, more or fewer where a half is too small.

    Args:
        motion: float32 [B, P].
        noise: float32 [B, 2, P].
        count: places to hide.
        high: ρ.
    """
    places = motion.shape[1]
    visible, moving = places - count, (places + 1) // 2
    from_moving = int(high * visible + 1e-9)
    from_moving = min(max(from_moving, visible - (places - moving)), moving)
    # Shuffled first: a stable sort then leaves places of equal motion in random order.
    shuffled = noise[:, 0].argsort(dim=1)
    ranked = motion.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
    order = shuffled.gather(1, ranked)
    drawn = noise[:, 1].gather(1, order)
    chosen = torch.cat(
        (
            _hide_first(drawn[:, :moving], from_moving),
            _hide_first(drawn[:, moving:], visible - from_moving),
        ),
        dim=1,
    )
    return torch.empty_like(chosen).scatter_(1, order, ~chosen)


def _top(motion: Tensor, noise: Tensor, count: int) -> Tensor:
    """Hide in every frame what moves most, drawn by motion without replacement.

    MGM (arXiv 2308.12962) lays one mask in every frame where the motion vectors are largest. Here
    tokens are hidden one by one, each with a probability proportional to its motion among those
    still visible (Gumbel-top-k, arXiv 1903.06059): the same number in every frame and following
    what moves, as there; not one connected region, and not always the same tokens.

    Args:
        motion: float32 [B, time, P].
        noise: float32 [B, time, P].
        count: places to hide in a frame.
    """
    mean = motion.mean(dim=(1, 2), keepdim=True)
    weight = motion / mean.clamp(min=torch.finfo(torch.float32).tiny) + STILL
    # A race of exponential clocks of these rates: the same as Gumbel noise on their logarithms.
    return _hide_first(-noise.log() / weight, count)


def decode_mask(
    config: MaskConfig, mask: Tensor, tokens: Grid, start: Tensor | None = None
) -> Tensor:
    """Which hidden tokens are decoded: bool [B, N], `decoded_count` True in every row.

    A running cell (VideoMAE V2, arXiv 2303.16727, 3.2): the four places of every 2 × 2 cell take
    turns, and from frame to frame the turn goes on by one. Tokens are taken phase by phase until
    the count is reached; of the last phase, as many as are needed, spread over the clip. Hidden
    tokens alone are counted, so the share does not depend on where the visible ones are. On a GPU
    nothing in it waits for the device.

    Args:
        config: of the mask.
        mask: bool [B, N], True where hidden, with `hidden_count` True in every row.
        tokens: the token grid.
        start: int64 [B] in [0, CELL_STARTS): where the turn of each clip begins; 0 without it.
            Drawn anew for every clip, each token is decoded as often as any other.
    """
    _, rows, columns = tokens
    index = torch.arange(mask.shape[1], device=mask.device)
    frame, row, column = index // (rows * columns), index // columns % rows, index % columns
    begin = torch.zeros(1, 1, dtype=torch.int64, device=mask.device)
    if start is not None:
        begin = start[:, None]
    phase = (2 * (row % 2) + column % 2 + frame + begin // CELL_STEP) % 4
    # Multiples of the golden ratio: any first part of them is spread evenly (Weyl's sequence).
    within = (index * 40503 + begin) % CELL_STEP
    turn = torch.where(mask, phase * CELL_STEP + within, CELL_STARTS)
    return _hide_first(turn, decoded_count(config, tokens))
