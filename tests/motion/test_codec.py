"""Flow from an encoder's motion search."""

from __future__ import annotations

import pickle
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from m3video.errors import ConfigError
from m3video.motion.codec import CodecFlow
from m3video.motion.flow import grey, read_flo
from tests.motion.textures import panned, texture

FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "flow"
ENCODERS = ["libx264", "mpeg4"]


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("size", [(64, 96), (51, 83)])
def test_each_pair_has_its_own_motion(encoder: str, size: tuple[int, int]) -> None:
    """First to second, x first, in pixels, also where sides are odd."""
    moves = [(3.0, -1.0), (0.0, 0.0), (-6.0, 4.0), (0.5, 1.75)]
    frames = [grey(panned(2, *size, move, seed=number)) for number, move in enumerate(moves)]
    first, second = (torch.stack([pair[place] for pair in frames]) for place in (0, 1))
    flow = CodecFlow(encoder)(first, second)
    assert flow.shape == (4, 2, *size)
    assert flow.dtype == torch.float32
    found = flow[:, :, 8:-8, 8:-8].flatten(2).median(dim=-1).values
    torch.testing.assert_close(found, torch.tensor(moves), atol=0.3, rtol=0)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_motion_is_where_things_are_in_the_first_frame(encoder: str) -> None:
    """A square goes 6 right over a still ground: it moves where it was, not where it will be."""
    ground, square = texture(128, 192, seed=1), texture(64, 64, seed=2)
    first, second = ground.clone(), ground.clone()
    first[32:96, 32:96] = square
    second[32:96, 38:102] = square
    flow = CodecFlow(encoder)(first[None], second[None])[0, :, 44:84]
    assert flow[:, :, 34:90].mean(dim=(1, 2)).tolist() == pytest.approx([6, 0], abs=0.5)
    assert flow[0, :, 34:38].mean().item() == pytest.approx(6, abs=1)
    assert flow[:, :, 112:].abs().mean() < 0.2


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_pair_is_coded_without_regard_to_the_others(encoder: str) -> None:
    first = torch.stack([texture(48, 64, seed) for seed in range(5)])
    second = first.roll(3, dims=2)
    together = CodecFlow(encoder)(first, second)
    assert torch.equal(together[3:], CodecFlow(encoder)(first[3:], second[3:]))
    assert torch.equal(together, CodecFlow(encoder)(first, second))


def test_nothing_found_again_is_no_motion() -> None:
    noise = torch.randint(0, 256, (2, 32, 48), dtype=torch.uint8)
    flow = CodecFlow()(torch.zeros_like(noise), noise)
    assert torch.isfinite(flow).all()
    assert CodecFlow()(noise[:0], noise[:0]).shape == (0, 2, 32, 48)


def test_an_ffmpeg_without_encoders_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"h264", "mpeg4"})
    assert CodecFlow().encoder == "mpeg4"
    assert pickle.loads(pickle.dumps(CodecFlow())) == CodecFlow("mpeg4")
    monkeypatch.setattr(av, "codecs_available", {"h264"})
    with pytest.raises(ConfigError, match=r"libx264 or mpeg4, .* install the av wheel"):
        CodecFlow()


@pytest.mark.parametrize(("pair", "expected"), [(0, 1.80), (1, 1.36)])
def test_end_point_error_on_flying_chairs(pair: int, expected: float) -> None:
    """At seeds 8 px apart; DIS fast has 2.05 and 1.71."""
    if not FOLDER.is_dir():
        pytest.skip("no ../shared/data/flow")
    images = [
        cv2.imread(str(FOLDER / f"chairs{pair}_frame{number}.png"), cv2.IMREAD_GRAYSCALE)
        for number in (1, 2)
    ]
    first, second = (torch.from_numpy(np.asarray(image))[None] for image in images)
    flow = CodecFlow("libx264")(first, second)[0]
    wrong = (flow - read_flo(FOLDER / f"chairs{pair}_flow.flo")).norm(dim=0)
    assert wrong[4::8, 4::8].mean().item() == pytest.approx(expected, abs=0.1)
