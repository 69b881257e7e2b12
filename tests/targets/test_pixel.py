"""The pixel target against transformers' VideoMAE loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from transformers import VideoMAEConfig, VideoMAEForPreTraining
from transformers.models.videomae import modeling_videomae

from m3video.targets import build_targets
from m3video.video.augment import MEAN, STD
from tests.targets.clips import noise_view, settings


def labels_of_transformers(frames: Tensor, patch: int, normalise: bool) -> Tensor:
    """What transformers' loss gets as labels, [B, N − 1, D] (the first token is visible).

    Its forward makes them and hands them to MSELoss; a spy in that place notes them.
    """
    count = frames.shape[1] // 2 * (frames.shape[2] // patch) ** 2
    config = VideoMAEConfig(
        image_size=frames.shape[2],
        patch_size=patch,
        num_frames=frames.shape[1],
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        decoder_hidden_size=24,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=8,
        norm_pix_loss=normalise,
    )
    model = VideoMAEForPreTraining(config).eval()
    inputs = (frames.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    hidden = torch.ones(len(frames), count, dtype=torch.bool)
    hidden[:, 0] = False
    with torch.no_grad(), patch_loss() as seen:
        model(inputs.permute(0, 1, 4, 2, 3), bool_masked_pos=hidden)
    return seen[0]


@contextmanager
def patch_loss() -> Iterator[list[Tensor]]:
    """Note the labels that VideoMAE's loss is given."""
    seen: list[Tensor] = []

    class Spy(torch.nn.MSELoss):
        def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
            seen.append(labels)
            return super().forward(logits, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_videomae, "MSELoss", Spy)
        yield seen


@pytest.mark.parametrize("normalise", [True, False])
def test_the_labels_are_those_of_transformers(normalise: bool) -> None:
    config = settings(
        clip={"frames": 4, "stride": 1, "size": (32, 32), "patch": 8},
        targets={"pixel": {"weight": 1, "normalise": normalise}},
    )
    view = noise_view(config)
    target = build_targets(config)["pixel"](view)
    assert target.valid.all()
    expected = labels_of_transformers(view.frames, 8, normalise)
    torch.testing.assert_close(target.values[:, 1:], expected, atol=1e-4, rtol=1e-4)


def test_order_is_frame_row_column_channel_on_frames_that_are_not_square() -> None:
    """The rows that the encoder reads, not the others; token (time, row, column)."""
    config = settings(
        targets={"pixel": {"weight": 1, "normalise": False}, "trajectory": {"weight": 1}}
    )
    view = noise_view(config, batch=1)
    values = build_targets(config)["pixel"](view).values[0].reshape(2, 2, 3, 2, 16, 16, 3)
    inputs = view.frames[0, list(view.plan.inputs)]
    assert view.plan.inputs != (0, 1, 2, 3)
    for time, row, column, frame, y, x, channel in [
        (0, 0, 0, 0, 0, 0, 0),
        (1, 1, 2, 1, 15, 3, 2),
        (1, 0, 1, 0, 4, 9, 1),
    ]:
        pixel = inputs[2 * time + frame, 16 * row + y, 16 * column + x, channel]
        value = values[time, row, column, frame, y, x, channel]
        assert value == pytest.approx(pixel.item() / 255)


def test_a_flat_patch_is_zero() -> None:
    config = settings()
    view = noise_view(config, batch=1)
    view.frames.fill_(77)
    assert build_targets(config)["pixel"](view).values.abs().max() < 0.1
