"""RAFT: what is around torchvision's network. Without torchvision a network of its interface
stands in; the tests of the real one are skipped."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from m3video.errors import ConfigError
from m3video.motion import raft
from m3video.motion.flow import make_flow
from m3video.motion.raft import load_raft

try:
    from torchvision.models import optical_flow as real
except (ImportError, RuntimeError):
    real = None
needs_torchvision = pytest.mark.skipif(real is None, reason="torchvision cannot be imported")


class Standin(nn.Module):
    """Checks its input as torchvision's RAFT does; its flow is (gain · second image, column)."""

    built = 0
    largest_batch = 0

    def __init__(self, large: bool) -> None:
        super().__init__()
        Standin.built += 1
        self.gain = nn.Parameter(torch.zeros(()))
        self.norm = nn.BatchNorm2d(3)
        if large:
            self.mask_predictor = nn.Conv2d(1, 1, 1)

    def forward(self, image1: Tensor, image2: Tensor, num_flow_updates: int = 12) -> list[Tensor]:
        batch, channels, height, width = image1.shape
        Standin.largest_batch = max(Standin.largest_batch, batch)
        assert not self.training
        assert num_flow_updates == raft.UPDATES
        assert image1.shape == image2.shape
        assert channels == 3
        assert height % 8 == width % 8 == 0
        assert min(height, width) >= 128
        assert image1.min() >= -1
        assert image1.max() <= 1
        assert torch.equal(image2[:, 0], image2[:, 2])
        columns = torch.arange(width).expand(batch, height, width)
        flow = torch.stack([self.gain * image2[:, 1], columns], dim=1)
        return [torch.full_like(flow, torch.nan), flow]


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> type[Standin]:
    """Stands in for torchvision."""
    module: Any = types.ModuleType("torchvision.models.optical_flow")
    module.raft_small = lambda *, weights, progress: Standin(False)
    module.raft_large = lambda *, weights, progress: Standin(True)
    models: Any = types.ModuleType("torchvision.models")
    models.optical_flow = module
    for name, value in {
        "torchvision": types.ModuleType("torchvision"),
        "torchvision.models": models,
        "torchvision.models.optical_flow": module,
    }.items():
        monkeypatch.setitem(sys.modules, name, value)
    raft._model.cache_clear()
    raft._on_device.cache_clear()
    Standin.built = Standin.largest_batch = 0
    return Standin


def saved(path: Path, *, large: bool = False, gain: float = 5.0) -> Path:
    model = Standin(large)
    nn.init.constant_(model.gain, gain)
    Standin.built -= 1
    if path.suffix == ".safetensors":
        save_file(model.state_dict(), path)
    else:
        torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", ["raft.pth", "raft.safetensors"])
@pytest.mark.parametrize("large", [False, True])
def test_flow_of_frames_that_need_padding(
    standin: type[Standin], tmp_path: Path, name: str, large: bool
) -> None:
    flow = load_raft(saved(tmp_path / name, large=large))
    first, second = torch.randint(0, 256, (2, 11, 131, 150), dtype=torch.uint8)
    found = flow(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[:, 0], 5 * (second / 127.5 - 1))
    assert torch.equal(found[:, 1], torch.arange(150.0).expand(11, 131, 150))
    assert standin.largest_batch == 8
    assert not found.requires_grad
    assert flow(first[:0], second[:0]).shape == (0, 2, 131, 150)


@pytest.mark.parametrize("size", [(64, 96), (50, 130), (127, 40)])
def test_small_frames_are_enlarged_and_their_flow_is_not(
    standin: type[Standin], tmp_path: Path, size: tuple[int, int]
) -> None:
    """Columns of the enlarged frame, in pixels of the frame: where resizing puts their middles."""
    frames = torch.full((2, *size), 191, dtype=torch.uint8)
    flow = load_raft(saved(tmp_path / "raft.pth"))(frames, frames)
    assert flow.shape == (2, 2, *size)
    zoom = round(size[1] * 128 / min(size)) / size[1]
    torch.testing.assert_close(
        flow[:, 0], torch.full((2, *size), 5 * (191 / 127.5 - 1) / zoom), rtol=1e-4, atol=1e-4
    )
    middles = torch.arange(size[1]) + 0.5 - 0.5 / zoom
    torch.testing.assert_close(
        flow[:, 1, :, 2:-2], middles[2:-2].expand(2, size[0], -1), rtol=1e-3, atol=0.02
    )


def test_the_file_is_read_once_a_process(standin: type[Standin], tmp_path: Path) -> None:
    path = saved(tmp_path / "raft.pth")
    frames = torch.zeros(1, 128, 136, dtype=torch.uint8)
    for _ in range(3):
        make_flow("raft", path)(frames, frames)
    assert standin.built == 1
    sent = pickle.dumps(make_flow("raft", path))
    assert len(sent) < 1000  # a path, no weights
    assert torch.equal(pickle.loads(sent)(frames, frames), make_flow("raft", path)(frames, frames))


@pytest.mark.usefixtures("standin")
def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.pth: no such file; --motion\.weights"):
        load_raft(tmp_path / "gone.pth")
    text = tmp_path / "text.pth"
    text.write_text("no weights")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\0" * 40)
    for path in (text, broken):
        with pytest.raises(
            ConfigError, match=rf"{path.name}: cannot be read as weights \(.*\); "
        ) as e:
            load_raft(path)
        assert "\n" not in str(e.value)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"model": Standin(False).state_dict(), "epoch": 3}, wrapped)
    with pytest.raises(ConfigError, match=r"wrapped\.pth: holds something else than a state dict"):
        load_raft(wrapped)
    other = tmp_path / "other.pth"
    torch.save({"fnet.weight": torch.zeros(3)}, other)
    with pytest.raises(ConfigError, match=r"no state dict of torchvision's raft_small: fnet"):
        load_raft(other)
    shape = tmp_path / "shape.pth"
    torch.save({**Standin(True).state_dict(), "gain": torch.zeros(3)}, shape)
    with pytest.raises(ConfigError, match=r"torchvision's raft_large: gain is .* another shape"):
        load_raft(shape)


def test_code_in_a_file_is_not_run(standin: type[Standin], tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "run",)

    torch.save({"gain": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ConfigError, match="cannot be read as weights"):
        load_raft(tmp_path / "trap.pth")
    assert not (tmp_path / "run").exists()


def test_without_torchvision_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    raft._model.cache_clear()
    with pytest.raises(ConfigError, match=r"needs torchvision, .* install the torchvision that"):
        load_raft(tmp_path / "raft.pth")


@needs_torchvision
@pytest.mark.parametrize("name", ["raft_small", "raft_large"])
def test_the_real_network_is_called_as_it_wants(name: str, tmp_path: Path) -> None:
    raft._model.cache_clear()
    raft._on_device.cache_clear()
    model = getattr(real, name)(weights=None).eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    first, second = torch.randint(0, 256, (2, 2, 128, 160), dtype=torch.uint8)
    with torch.no_grad():
        images = [(frames[:, None] / 127.5 - 1).repeat(1, 3, 1, 1) for frames in (first, second)]
        expected = model(*images, num_flow_updates=12)[-1]
    torch.testing.assert_close(load_raft(tmp_path / "raft.pth")(first, second), expected)
