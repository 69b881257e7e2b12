"""A vision transformer for clips that computes visible tokens only.

- Pre-norm ViT (arXiv 2010.11929) with joint space-time attention (arXiv 2203.12602, 3.3).
- One token is a tubelet: `tubelet` frames × `patch` × `patch` pixels, embedded by one linear layer.
- Positions are fixed sines and cosines of the token's number in (time, row, column) order.
- Hidden tokens are never embedded: the cost follows the number of visible tokens.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from m3video.config import ClipConfig, one_line
from m3video.errors import ConfigError
from m3video.model.positions import Grid, interpolate_positions

SIZES: dict[str, tuple[int, int, int, int]] = {
    "nano": (128, 4, 4, 512),
    "ti": (192, 12, 3, 768),
    "s": (384, 12, 6, 1536),
    "b": (768, 12, 12, 3072),
    "l": (1024, 24, 16, 4096),
    "h": (1280, 32, 16, 5120),
    "g": (1408, 40, 16, 6144),
}
"""Width, depth, heads and hidden width of the blocks of each encoder size."""


def sine_cosine_positions(count: int, width: int) -> Tensor:
    """Fixed position embedding of `count` tokens: float32 [count, width].

    The angle of column j is position / 10000^(2⌊j/2⌋ / width); even columns hold its sine, odd ones
    its cosine (arXiv 1706.03762, 3.5).
    """
    column = torch.arange(width)
    rate = 10000.0 ** (-2 * (column // 2).double() / width)
    angle = torch.arange(count).double()[:, None] * rate
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def split_tokens(mask: Tensor, hidden: int | None = None) -> tuple[Tensor, Tensor]:
    """Which tokens a mask leaves (visible) and which it marks (hidden), in ascending order.

    Args:
        mask: bool [B, N], True where hidden; every row marks the same number.
        hidden: That number, where the caller knows it. Without it the mask is read, which on a GPU
            waits for the device and in `torch.compile` breaks the graph.

    Returns:
        int64 [B, N - hidden] and int64 [B, hidden].

    Raises:
        ConfigError: the rows mark different numbers of tokens (only checked without `hidden`).
    """
    if hidden is None:
        counts = sorted(set(mask.sum(dim=1).tolist()))
        if len(counts) != 1:
            raise ConfigError(
                f"the mask marks {counts} tokens in different clips; every clip must have as many"
            )
        hidden = counts[0]
    order = mask.to(torch.uint8).argsort(dim=1, stable=True)
    visible = mask.shape[1] - hidden
    return order[:, :visible], order[:, visible:]


class Attention(nn.Module):
    """Multi-head self-attention; queries and values have biases, keys none (they would cancel)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, skip: int = 0) -> Tensor:
        """[B, N, D] -> [B, N - skip, D]: the first `skip` tokens give keys and values only."""
        B, N, D = x.shape
        no_bias = torch.zeros_like(self.q_bias)
        if skip == 0:
            bias = torch.cat((self.q_bias, no_bias, self.v_bias))
            q, k, v = linear(x, self.qkv.weight, bias).view(B, N, 3, self.heads, -1).unbind(2)
        else:
            q = linear(x[:, skip:], self.qkv.weight[:D], self.q_bias)
            q = q.view(B, N - skip, self.heads, -1)
            bias = torch.cat((no_bias, self.v_bias))
            k, v = linear(x, self.qkv.weight[D:], bias).view(B, N, 2, self.heads, -1).unbind(2)
        out = scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return cast(Tensor, self.proj(out.transpose(1, 2).reshape(B, N - skip, D)))


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor, *, pool: bool = False) -> Tensor:
        """[B, N, D] -> [B, N, D], or [B, D] with `pool`: the mean over the tokens.

        The second layer treats all tokens alike, so that of their mean is the mean of theirs.
        """
        hidden = gelu(self.fc1(x))
        return cast(Tensor, self.fc2(hidden.mean(1) if pool else hidden))


def drop_path(branch: Tensor, share: float, kept: Tensor | None = None) -> Tensor:
    """Stochastic depth (arXiv 1603.09382): [B, …], whole samples of it zero with chance `share`.

    The others are divided by 1 − share, so that the mean stays. `kept` (bool [B]) are the others;
    without it they are drawn from torch's generator.
    """
    if kept is None:
        kept = torch.rand(len(branch), device=branch.device) >= share
    scale = kept.to(branch.dtype) / (1 - share)
    return branch * scale.view(-1, *[1] * (branch.ndim - 1))


class Block(nn.Module):
    """Pre-norm transformer block.

    Attributes:
        drop_path: chance that a branch is left out for a sample in training.
        kept: which samples keep the branch of the attention, and of the MLP; None: drawn then.
        recompute: whether nothing of it is kept for the backward pass but its input.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, norm_eps: float) -> None:
        super().__init__()
        self.drop_path = 0.0
        self.kept: tuple[Tensor, Tensor] | None = None
        self.recompute = False
        self.norm1 = nn.LayerNorm(width, eps=norm_eps)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def draw(self, samples: slice, count: int, device: torch.device) -> None:
        """Draw for a batch of `count` samples which branches are left out in `samples` of them.

        Compiled code takes what is drawn as an input, so that other samples are no other code.
        """
        if self.drop_path:
            attention, mlp = (torch.rand(count, device=device)[samples] for _ in range(2))
            self.kept = attention >= self.drop_path, mlp >= self.drop_path

    def forward(self, x: Tensor, skip: int = 0, *, pool: bool = False) -> Tensor:
        """[B, N, D] -> [B, N - skip, D]: the first `skip` tokens are context, not returned.

        With `pool`: the mean over those returned, [B, D].
        """
        if self.recompute and self.training and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._forward, x, skip, pool, use_reentrant=False))
        return self._forward(x, skip, pool)

    def _forward(self, x: Tensor, skip: int, pool: bool) -> Tensor:
        attention, mlp = self.kept or (None, None)
        x = x[:, skip:] + self._branch(self.attention(self.norm1(x), skip), attention)
        branch = self._branch(self.mlp(self.norm2(x), pool=pool), mlp)
        return (x.mean(1) if pool else x) + branch

    def _branch(self, branch: Tensor, kept: Tensor | None) -> Tensor:
        if self.training and self.drop_path:
            return drop_path(branch, self.drop_path, kept)
        return branch


class VisionTransformer(nn.Module):
    """Clip -> tokens.

    Attributes:
        width: D.
        tokens: Token grid (time, rows, columns).
        clip: The input it was built or loaded for.
        position_grid: Token grid of the table that its positions are read from; that of `tokens`,
            unless the encoder was resized (`m3video.model.resize`).
        architecture: The other arguments it was built with.
    """

    positions: Tensor
    tokens: Grid
    position_grid: Grid

    def __init__(
        self,
        *,
        frames: int,
        size: tuple[int, int],
        tubelet: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-6,
        final_norm: bool = True,
        position_grid: Grid | None = None,
    ) -> None:
        super().__init__()
        try:
            self.clip = ClipConfig.model_validate(
                {"frames": frames, "size": size, "tubelet": tubelet, "patch": patch}
            )
        except ValidationError as error:
            raise ConfigError(f"no vision transformer for such clips: {one_line(error)}") from error
        self.architecture: dict[str, int | float | bool] = {
            "width": width,
            "depth": depth,
            "heads": heads,
            "mlp_ratio": mlp_ratio,
            "norm_eps": norm_eps,
            "final_norm": final_norm,
        }
        self.width = width
        self.patch_embed = nn.Linear(3 * tubelet * patch * patch, width)
        self.register_buffer("positions", torch.empty(0), persistent=False)
        self.place_tokens(self.clip, position_grid or self.clip.tokens)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio, norm_eps) for _ in range(depth))
        self.norm: nn.Module = nn.LayerNorm(width, eps=norm_eps) if final_norm else nn.Identity()
        self.apply(initialise)

    def forward(
        self, clip: Tensor, mask: Tensor | None = None, *, visible: Tensor | None = None
    ) -> Tensor:
        """Encode the visible tokens.

        Args:
            clip: float [B, 3, T, H, W], normalised.
            mask: bool [B, N], True where hidden; None shows all tokens.
            visible: int64 [B, N_visible], instead of a mask: the tokens to encode.

        Returns:
            [B, N_visible, D], in ascending token order (or that of `visible`).

        Raises:
            ConfigError: the clip has another shape or is not of floating point.
        """
        if visible is None and mask is not None:
            visible, _ = split_tokens(mask)
        x = self._embed(clip, visible)
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, self.norm(x))

    def mean(self, clip: Tensor) -> Tensor:
        """The mean over all tokens, [B, D]: `forward(clip).mean(1)` up to rounding, for less.

        Only for an encoder without a last norm, which would stand between tokens and mean.
        """
        assert isinstance(self.norm, nn.Identity)
        x = self._embed(clip, None)
        for block in self.blocks[:-1]:
            x = block(x)
        return cast(Tensor, self.blocks[-1](x, pool=True))

    def place_tokens(self, clip: ClipConfig, position_grid: Grid) -> None:
        """Read clips of this kind, with the table of positions of `position_grid`."""
        table = sine_cosine_positions(math.prod(position_grid), self.width)
        positions = interpolate_positions(table, position_grid, clip.tokens)
        self.clip, self.tokens, self.position_grid = clip, clip.tokens, position_grid
        self.positions = positions.to(self.positions)

    def set_drop_path(self, share: float) -> None:
        """Have block i of the n blocks be left out with chance share · i / (n − 1) in training."""
        last = max(len(self.blocks) - 1, 1)
        for number, block in enumerate(self.blocks):
            cast(Block, block).drop_path = share * number / last

    def take_norm(self) -> nn.LayerNorm:
        """Give up the last norm, with its weights; a fresh one where the encoder has none."""
        norm, self.norm = self.norm, nn.Identity()
        if isinstance(norm, nn.LayerNorm):
            self.architecture["final_norm"] = False
            return norm
        return nn.LayerNorm(self.width, eps=float(self.architecture["norm_eps"]))

    def _embed(self, clip: Tensor, visible: Tensor | None) -> Tensor:
        """Patches and their positions: [B, N_visible, D]."""
        positions = self.positions if visible is None else self.positions[visible]
        return cast(Tensor, self.patch_embed(self._patches(clip, visible)) + positions)

    def _patches(self, clip: Tensor, visible: Tensor | None) -> Tensor:
        """[B, 3, T, H, W] -> [B, N_visible, 3·tubelet·patch²], in (channel, time, row, column)
        order like the kernel of a 3-d convolution."""
        T, (H, W) = self.clip.frames, self.clip.size
        if clip.shape[1:] != (3, T, H, W) or not clip.is_floating_point():
            raise ConfigError(
                f"clip is {clip.dtype} {list(clip.shape)}, the model wants floating point "
                f"[B, 3, {T}, {H}, {W}]; see m3video.video.augment.normalise"
            )
        B, (t, h, w), p = clip.shape[0], self.tokens, self.clip.patch
        grid = clip.reshape(B, 3, t, self.clip.tubelet, h, p, w, p).permute(0, 2, 4, 6, 1, 3, 5, 7)
        if visible is None:
            return grid.reshape(B, t * h * w, -1)
        batch = torch.arange(B, device=clip.device)[:, None]
        time, place = visible // (h * w), visible % (h * w)
        return grid[batch, time, place // w, place % w].flatten(2)


def initialise(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases (arXiv 2111.06377, appendix A)."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build_encoder(clip: ClipConfig, size: str) -> VisionTransformer:
    """The encoder of a size in `SIZES` for clips of this kind."""
    width, depth, heads, hidden = SIZES[size]
    encoder = VisionTransformer(
        frames=clip.frames,
        size=clip.size,
        tubelet=clip.tubelet,
        patch=clip.patch,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=hidden / width,
    )
    encoder.clip = clip
    return encoder
