"""Flow: the estimators, the grey images, `.flo` files."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from m3video.config import FLOW_NAMES, FlowName
from m3video.errors import ConfigError
from m3video.motion.flow import _BT601, grey, make_flow, read_flo
from tests.motion.textures import panned, texture


def can_be_made(name: FlowName) -> bool:
    """Not without packages or weights that are not there; `exact` comes with rendered clips."""
    try:
        make_flow(name)
    except ConfigError:
        return False
    return True


HERE = tuple(name for name in FLOW_NAMES if can_be_made(name))


@pytest.mark.parametrize("shape", [(5, 7), (2, 6, 10), (2, 3, 8, 4)])
def test_grey_is_opencvs_conversion(shape: tuple[int, ...]) -> None:
    frames = torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)
    rows = frames.reshape(-1, shape[-1], 3).numpy()
    expected = torch.from_numpy(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY)).reshape(shape)
    assert torch.equal(grey(frames), expected)


def test_grey_of_a_view_that_is_not_contiguous() -> None:
    frames = torch.randint(0, 256, (3, 20, 30, 3), dtype=torch.uint8)
    view = frames[::2, 3:17, 5:].flip(2)
    assert torch.equal(grey(view), grey(view.clone(memory_format=torch.contiguous_format)))


def test_torch_weights_of_grey_are_opencvs() -> None:
    """The arithmetic that other devices use, on every 5th colour."""
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(-1, 1, 3)
    ours = (colours.astype(np.int32) @ np.array(_BT601, np.int32) + (1 << 14)) >> 15
    assert np.array_equal(ours, cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_grey_is_the_same_on_a_gpu() -> None:
    frames = torch.randint(0, 256, (2, 30, 40, 3), dtype=torch.uint8)
    assert torch.equal(grey(frames.cuda()).cpu(), grey(frames))


@pytest.mark.parametrize("name", HERE)
def test_sign_order_and_unit_on_frames_that_are_not_square(name: FlowName) -> None:
    """Next − current, x first, in pixels: a texture that moves 3 right and 1 up."""
    frames = grey(panned(2, 64, 96, (3.0, -1.0)))
    flow = make_flow(name)(frames[:1], frames[1:])
    assert flow.shape == (1, 2, 64, 96)
    assert flow.dtype == torch.float32
    inner = flow[0, :, 12:-12, 12:-12].flatten(1).median(dim=1).values
    assert inner.tolist() == pytest.approx([3.0, -1.0], abs=0.3)


@pytest.mark.parametrize("name", HERE)
def test_zero_flow_is_zero(name: FlowName) -> None:
    """Trap 1: flow that is kept as 8 bits and not decoded reads as +20 px."""
    still = texture(48, 64)[None]
    assert make_flow(name)(still, still).abs().mean() < 0.01


@pytest.mark.parametrize("name", HERE)
def test_motion_below_a_pixel_survives(name: FlowName) -> None:
    """Trap 2: flow cast to integers loses it. (DIS is drawn to half pixels.)"""
    frames = grey(panned(2, 64, 96, (0.4, 0.3)))
    flow = make_flow(name)(frames[:1], frames[1:])[0, :, 12:-12, 12:-12]
    assert flow.mean(dim=(1, 2)).tolist() == pytest.approx([0.4, 0.3], abs=0.2)


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("size", [(48, 64), (40, 40), (48, 80)])
def test_a_pair_does_not_depend_on_the_pairs_before_it(
    name: FlowName, size: tuple[int, int]
) -> None:
    """OpenCV's DIS, kept from pair to pair, does at the last two sizes."""
    frames = grey(torch.cat([panned(2, *size, (v, 1.0), seed=int(v)) for v in (4.0, 2.0, 0.5)]))
    first, second = frames[::2], frames[1::2]
    flow = make_flow(name)
    together = flow(first, second)
    order = torch.tensor([2, 0, 1])
    assert torch.equal(flow(first[order], second[order]), together[order])
    for pair in range(3):
        alone = make_flow(name)(first[pair, None], second[pair, None])
        assert torch.equal(alone[0], together[pair])


@pytest.mark.parametrize("name", [name for name in HERE if name.startswith("dis")])
@pytest.mark.parametrize("size", [(12, 48), (16, 320), (24, 160), (160, 16)])
def test_low_and_wide_frames(name: FlowName, size: tuple[int, int]) -> None:
    """OpenCV's DIS gives NaN for some of these, and reads outside of others."""
    frames = grey(panned(2, *size, (1.0, 0.0)))
    flow = make_flow(name)(frames[:1], frames[1:])
    assert flow.shape == (1, 2, *size)
    assert flow.median() > -0.1
    assert float(flow[0, 0].median()) == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize("name", HERE)
def test_an_estimator_can_be_sent_to_a_worker(name: FlowName) -> None:
    frames = grey(panned(2, 32, 48, (1.0, 0.0)))
    flow = make_flow(name)
    flow(frames[:1], frames[1:])
    sent = pickle.loads(pickle.dumps(flow))
    assert torch.equal(sent(frames[:1], frames[1:]), flow(frames[:1], frames[1:]))


def test_no_pairs_give_no_flow() -> None:
    none = torch.zeros(0, 32, 48, dtype=torch.uint8)
    assert make_flow("dis-fast")(none, none).shape == (0, 2, 32, 48)


def test_unknown_names_and_small_frames_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"flow 'pwc' is not known: use one of dis, dis-ultra"):
        make_flow("pwc")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'exact' comes with rendered clips"):
        make_flow("exact")
    small = torch.zeros(1, 8, 40, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"8×40 is too small for DIS"):
        make_flow("dis-fast")(small, small)
    assert make_flow("farneback")(small, small).shape == (1, 2, 8, 40)


def _flo(path: Path, width: int, height: int, values: np.ndarray) -> Path:
    path.write_bytes(struct.pack("<fii", 202021.25, width, height) + values.tobytes())
    return path


def test_flo_files(tmp_path: Path) -> None:
    values = np.arange(2 * 3 * 5, dtype="<f4")
    flow = read_flo(_flo(tmp_path / "a.flo", 5, 3, values))
    assert flow.shape == (2, 3, 5)
    assert flow[:, 1, 2].tolist() == [14.0, 15.0]  # row 1, column 2: values 2 · (1 · 5 + 2), + 1


def test_files_that_are_no_flo_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.flo: 132 bytes do not hold .* 5×4 pixels"):
        read_flo(_flo(tmp_path / "a.flo", 5, 4, np.zeros(30, "<f4")))
    (tmp_path / "b.flo").write_bytes(b"\x89PNG, and some more bytes")
    with pytest.raises(ConfigError, match=r"b\.flo: is not a \.flo file"):
        read_flo(tmp_path / "b.flo")
    (tmp_path / "c.flo").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"c\.flo: is not a \.flo file"):
        read_flo(tmp_path / "c.flo")


FOLDER = Path(__file__).parents[2] / ".." / "shared" / "data" / "flow"


@pytest.mark.parametrize(("pair", "expected"), [(0, 2.05), (1, 1.71)])
def test_end_point_error_of_dis_fast_on_flying_chairs(pair: int, expected: float) -> None:
    if not FOLDER.is_dir():
        pytest.skip("no ../shared/data/flow")
    first, second = (
        cv2.cvtColor(cv2.imread(str(FOLDER / f"chairs{pair}_frame{n}.png")), cv2.COLOR_BGR2GRAY)
        for n in (1, 2)
    )
    flow = make_flow("dis-fast")(torch.from_numpy(first)[None], torch.from_numpy(second)[None])[0]
    error = (flow - read_flo(FOLDER / f"chairs{pair}_flow.flo")).norm(dim=0)
    assert error.mean() == pytest.approx(expected, abs=0.1)
