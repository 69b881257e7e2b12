"""A masked autoencoder for clips: predict, for every hidden token, what each target says about it.

- The encoder sees visible tokens only; a light decoder sees all, hidden ones as one learned token.
- A part of the hidden tokens can be left out of the decoder and the loss (dual masking).
- Several targets share one decoder or have one each; each target has its own head.
- Loss: squared error, averaged over what is valid in these tokens, weighted sum over targets.
- Sources: VideoMAE (arXiv 2203.12602, 3.1), Masked Motion Encoding (arXiv 2210.06096, 3.3),
  VideoMAE V2 (arXiv 2303.16727, 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from m3video.config import Activation, HeadKind, PretrainConfig
from m3video.errors import ConfigError
from m3video.model.vit import (
    Block,
    VisionTransformer,
    build_encoder,
    initialise,
    sine_cosine_positions,
    split_tokens,
)

HEAD_WIDTH = 512
"""Hidden width of an `mlp` head."""


@dataclass(frozen=True)
class HeadSpec:
    """What one target needs of the model."""

    dim: int
    """D: numbers to predict for a token."""
    kind: HeadKind = "linear"
    activation: Activation = "none"
    weight: float = 1.0
    """Factor of this target's loss."""


class TargetLike(Protocol):
    """Anything with the two tensors of a target."""

    @property
    def values(self) -> Tensor:
        """float32 [B, N, D]; may hold anything, NaN too, where not valid."""

    @property
    def valid(self) -> Tensor:
        """bool [B, N, D] or [B, N, 1]."""


class Decoder(nn.Module):
    """Visible and hidden tokens -> hidden tokens."""

    def __init__(
        self, encoder_width: int, width: int, depth: int, heads: int, norm_eps: float
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(encoder_width, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads, 4.0, norm_eps) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=norm_eps)

    def forward(self, encoded: Tensor, visible_positions: Tensor, hidden_tokens: Tensor) -> Tensor:
        """[B, N_visible, D_enc], [B, N_visible, D], [B, N_hidden, D] -> [B, N_hidden, D].

        Only hidden tokens leave the decoder, so the last block computes nothing but keys and values
        for the visible ones.
        """
        count = encoded.shape[1]
        x = torch.cat((self.embed(encoded) + visible_positions, hidden_tokens), dim=1)
        for number, block in enumerate(self.blocks, start=1):
            x = block(x, skip=count if number == len(self.blocks) else 0)
        return cast(Tensor, self.norm(x[:, -hidden_tokens.shape[1] :]))


def make_head(width: int, spec: HeadSpec) -> nn.Sequential:
    """Linear, or Linear-512-GELU-Linear, and the activation if there is one."""
    layers: list[nn.Module] = [nn.Linear(width, spec.dim)]
    if spec.kind == "mlp":
        layers = [nn.Linear(width, HEAD_WIDTH), nn.GELU(), nn.Linear(HEAD_WIDTH, spec.dim)]
    if spec.activation != "none":
        layers.append(nn.Sigmoid() if spec.activation == "sigmoid" else nn.Tanh())
    return nn.Sequential(*layers)


def masked_squared_error(prediction: Tensor, values: Tensor, valid: Tensor) -> Tensor:
    """Mean squared error over the valid elements; 0 when there are none.

    Args:
        prediction: [B, N, D].
        values: [B, N, D]; ignored where not valid, NaN included.
        valid: bool [B, N, D] or [B, N, 1].
    """
    count = valid.sum() * (values.numel() // valid.numel())
    # Where nothing is known the prediction is its own target: no error, no gradient. On CPUs
    # `where` is 20 times faster with a dense mask than with a broadcast one.
    everywhere = valid.expand_as(values).contiguous()
    known = torch.where(everywhere, values, prediction.detach())
    return mse_loss(prediction, known, reduction="sum") / count.clamp(min=1)


class MaskedAutoencoder(nn.Module):
    """Encoder, decoder(s) and a head for each target."""

    positions: Tensor

    def __init__(
        self,
        encoder: VisionTransformer,
        *,
        heads: dict[str, HeadSpec],
        decoder_width: int,
        decoder_depth: int,
        decoder_heads: int,
        decoders: Literal["shared", "per-target"] = "shared",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if not heads:
            raise ConfigError("a masked autoencoder needs at least one target to predict")
        self.encoder = encoder
        self.specs = dict(heads)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_width))
        positions = sine_cosine_positions(encoder.clip.token_count, decoder_width)
        self.register_buffer("positions", positions, persistent=False)
        names = ["shared"] if decoders == "shared" else list(heads)
        self.decoders = nn.ModuleDict(
            {
                name: Decoder(encoder.width, decoder_width, decoder_depth, decoder_heads, norm_eps)
                for name in names
            }
        )
        self.heads = nn.ModuleDict(
            {name: make_head(decoder_width, spec) for name, spec in heads.items()}
        )
        self.decoders.apply(initialise)
        self.heads.apply(initialise)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        clip: Tensor,
        mask: Tensor,
        targets: Mapping[str, TargetLike] | None = None,
        *,
        hidden: int | None = None,
        decode: Tensor | None = None,
        decoded: int | None = None,
    ) -> dict[str, Any]:
        """Predict the hidden tokens and, given targets, score the predictions.

        Args:
            clip: float [B, 3, T, H, W], normalised.
            mask: bool [B, N], True where hidden; every row hides the same number.
            targets: One for each head.
            hidden: How many tokens a row hides. Give it in a training loop: it spares waiting for
                the device (see `split_tokens`).
            decode: bool [B, N], True for the hidden tokens to predict; every row has the same
                number. None predicts them all. The decoder then computes visible and these only.
            decoded: How many tokens a row of `decode` has; as `hidden`.

        Returns:
            `predictions`: {target: [B, N_hidden, D]}, hidden (with `decode`: these) tokens in
            ascending order; with targets also `loss`: the weighted sum, a scalar, `losses`:
            {target: scalar}, not weighted, and `features`: the mean of the encoder's visible
            tokens, [B, D_enc], detached.

        Raises:
            ConfigError: the clip has another shape, rows hide or decode different numbers of
                tokens, or a token is visible and decoded (not checked with `decoded`).
        """
        visible_index, hidden_index = split_tokens(mask, hidden)
        if decode is not None:
            if decoded is None and bool((decode & ~mask).any()):
                raise ConfigError("decode has visible tokens; only hidden tokens can be decoded")
            hidden_index = split_tokens(decode, decoded)[1]
        encoded = self.encoder(clip, visible=visible_index)
        predictions = self._predict(encoded, visible_index, hidden_index)
        if targets is None:
            return {"predictions": predictions}
        batch = torch.arange(len(mask), device=mask.device)[:, None]
        losses = {}
        for name, prediction in predictions.items():
            values = targets[name].values[batch, hidden_index]
            valid = targets[name].valid[batch, hidden_index]
            losses[name] = masked_squared_error(prediction, values, valid)
        weighted = [self.specs[name].weight * loss for name, loss in losses.items()]
        loss = torch.stack(weighted).sum()
        features = encoded.detach().mean(1)
        return {"predictions": predictions, "loss": loss, "losses": losses, "features": features}

    def _predict(self, encoded: Tensor, visible: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        visible_positions = self.positions[visible]
        hidden_tokens = self.mask_token + self.positions[hidden]
        decoded = {
            name: decoder(encoded, visible_positions, hidden_tokens)
            for name, decoder in self.decoders.items()
        }
        return {
            name: head(decoded["shared" if "shared" in decoded else name])
            for name, head in self.heads.items()
        }


def build_model(config: PretrainConfig, dims: dict[str, int]) -> MaskedAutoencoder:
    """The model of a run.

    Args:
        config: The run.
        dims: D of each active target, from its maker.
    """
    heads = {
        name: HeadSpec(dims[name], target.head, target.activation, target.weight)
        for name, target in config.targets.active.items()
    }
    return MaskedAutoencoder(
        build_encoder(config.clip, config.model.size),
        heads=heads,
        decoder_width=config.model.decoder_width,
        decoder_depth=config.model.decoder_depth,
        decoder_heads=config.model.decoder_heads,
        decoders=config.model.decoders,
    )
