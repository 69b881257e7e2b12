"""RAFT (Teed & Deng, ECCV 2020, arXiv 2003.12039): torchvision's networks, with weights of yours.

torchvision is an extra: `pip install m3video[raft]`. Weights are a state dict of its `raft_small`
or `raft_large`, such as those that it publishes; nothing is downloaded.
"""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from m3video.errors import ConfigError

UPDATES = 12
"""Refinements of a flow, as in training; the last one counts."""
_STRIDE = 8  # features have an eighth of the frame's resolution
_SMALLEST = 128  # smaller ones have no coarsest level of correlations
_AT_ONCE = 8  # pairs in memory; each correlates all places with all others


@dataclass(frozen=True)
class RaftFlow:
    """RAFT of a file of weights, on the device of the frames; each process reads the file once."""

    weights: Path

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """uint8 grey [P, H, W] twice → float32 [P, 2, H, W] on the same device.

        Raises:
            ConfigError: as `load_raft`.
        """
        model = _on_device(self.weights, first.device)
        flows = [torch.empty(0, 2, *first.shape[1:], device=first.device)]
        for start in range(0, len(first), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            flows.append(_flow(model, first[some], second[some]))
        return torch.cat(flows)


def load_raft(weights: Path) -> RaftFlow:
    """Read RAFT's weights, once a process.

    Args:
        weights: a state dict of torchvision's `raft_small` or `raft_large`, whose keys tell which:
            safetensors, or what `torch.save` writes (read without running any code in it).

    Raises:
        ConfigError: torchvision cannot be imported, or the file is missing, cannot be read or holds
            something else.
    """
    _model(weights)
    return RaftFlow(weights)


def _flow(model: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """Flow of a few pairs, resized and padded to what the network takes."""
    height, width = first.shape[1:]
    zoom = max(_SMALLEST / min(height, width), 1)
    size = round(height * zoom), round(width * zoom)
    images = [_network_input(frames, size) for frames in (first, second)]
    flow: Tensor = model(*images, num_flow_updates=UPDATES)[-1]
    flow = flow[..., : size[0], : size[1]].float()
    if size == (height, width):
        return flow
    scale = flow.new_tensor([width / size[1], height / size[0]])[:, None, None]
    return scale * interpolate(flow, (height, width), mode="bilinear", antialias=True)


def _network_input(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 grey [P, H, W] → float32 [P, 3, h, w] in −1 … 1, h and w multiples of 8."""
    images = frames[:, None].float() / 127.5 - 1
    if size != frames.shape[1:]:
        images = interpolate(images, size, mode="bilinear")
    down, across = (-side % _STRIDE for side in size)
    return pad(images, (0, across, 0, down), mode="replicate").expand(-1, 3, -1, -1)


@lru_cache(maxsize=2)
def _on_device(weights: Path, device: torch.device) -> nn.Module:
    """The network on a device; kept, since an estimator is made for every clip."""
    return deepcopy(_model(weights)).to(device)


@lru_cache(maxsize=1)
def _model(weights: Path) -> nn.Module:
    """The network that the weights are of, in evaluation mode."""
    networks = _torchvision()
    tensors = _read(weights)
    # Only the large one learns how to bring its flow to full resolution.
    large = any(name.startswith("mask_predictor.") for name in tensors)
    name = "raft_large" if large else "raft_small"
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
        model: nn.Module = getattr(networks, name)(weights=None, progress=False)
    wanted = model.state_dict()
    wrong = sorted(wanted.keys() ^ tensors.keys()) or [
        key for key, value in wanted.items() if tensors[key].shape != value.shape
    ]
    if wrong:
        raise ConfigError(
            f"{weights}: is no state dict of torchvision's {name}: {wrong[0]} is missing, left "
            "over or of another shape; give one of raft_small or raft_large, or use flow dis-medium"
        )
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def _torchvision() -> Any:
    try:
        from torchvision.models import optical_flow
    except (ImportError, RuntimeError) as error:  # RuntimeError: made for another torch
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"flow raft needs torchvision, which cannot be imported ({reason}): install the "
            f"torchvision that belongs to torch {torch.__version__}, or use flow dis-medium"
        ) from error
    return optical_flow


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; --motion.weights is RAFT's state dict")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError),
        *(pickle.UnpicklingError, SafetensorError),
    ) as error:
        reason = (" ".join(str(error).split()) or type(error).__name__).split(". ")[0]
        raise ConfigError(
            f"{path}: cannot be read as weights ({reason}); --motion.weights is RAFT's state dict, "
            "as .safetensors or as torch.save writes it"
        ) from error
    if not isinstance(tensors, dict) or not all(isinstance(v, Tensor) for v in tensors.values()):
        raise ConfigError(
            f"{path}: holds something else than a state dict; --motion.weights is that of "
            "torchvision's raft_small or raft_large"
        )
    return tensors
