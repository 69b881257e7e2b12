"""Our training step against that of transformers' VideoMAE of the same size: pre-training here,
fine-tuning in `finetune_step`.

- Same weights, clips, masks, optimiser and arithmetic; the losses must agree before time is taken.
- Timed: pixel target, forward, backward, AdamW. transformers makes its target from the normalised
  clip inside its forward; ours from the frames, as in training. Both are given the normalised clip.
- The two take turns, so that other load on the machine meets both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

import cv2
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from m3video.benchmark.finetune_step import finetune_sides
from m3video.config import FinetuneTrain, PretrainConfig, TrainConfig
from m3video.errors import ConfigError
from m3video.masking import hidden_count, make_mask
from m3video.model import SIZES, build_model, convert
from m3video.model.checkpoint import load_weights
from m3video.targets.base import ClipView
from m3video.targets.pixel import PixelTarget
from m3video.train.step import choose_device
from m3video.video.augment import normalise
from m3video.video.sampling import plan_clip

Step = Callable[[], Tensor]
"""One optimiser step; gives its loss."""


def benchmark_train(
    size: str = "s",
    *,
    task: Literal["pretrain", "finetune"] = "pretrain",
    repeats: int = 5,
    batch: int = 1,
    threads: int = 1,
    device: str = "cpu",
    frame_size: tuple[int, int] = (224, 224),
) -> dict[str, Any]:
    """Time both steps.

    Pre-training: pixel target, tube mask 0.7, a decoder of one block of width 192. Fine-tuning: all
    tokens, 400 classes.

    Args:
        size: Encoder, one of `SIZES`.
        task: What is timed.
        repeats: Timed steps of each, after two that are not.
        batch: Clips a step, of 16 frames.
        threads: CPU threads.
        device: A torch device; off the CPU both run in bf16 autocast.
        frame_size: Height and width in pixels.

    Returns:
        `ratio_to_transformers`: our step's time over theirs, the median over turns; below 1 ours is
        faster. For `ours` and `transformers`: median `seconds` a step, `clips_per_second`,
        `parameters` and the first step's `loss`.

    Raises:
        ConfigError: transformers is not installed, no such size or device, or nothing to time.
    """
    if size not in SIZES:
        raise ConfigError(f"size {size!r} is not an encoder; choose one of {', '.join(SIZES)}")
    for name, value in (("repeats", repeats), ("batch", batch), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"{name} {value} must be at least 1")
    place = choose_device(device)
    config = _config(size, frame_size)
    with pinned_threads(threads):
        if task == "pretrain":
            steps, models = _prepare(config, batch, place)
        else:
            models, loss_of, groups = finetune_sides(size, config.clip, batch, place)
            steps = {
                name: _step(groups[name], loss_of[name], FinetuneTrain(), place) for name in models
            }
        losses = {name: step().item() for name, step in steps.items()}
        if abs(losses["ours"] / losses["transformers"] - 1) > 0.01:
            raise RuntimeError(f"the two models are not the same: their losses are {losses}")
        seconds = _take_turns(steps, repeats, place)
    result: dict[str, Any] = {
        "ratio_to_transformers": statistics.median(
            ours / theirs
            for ours, theirs in zip(seconds["ours"], seconds["transformers"], strict=True)
        ),
        "task": task,
        "size": size,
        "batch": batch,
        "repeats": repeats,
        "threads": threads,
        "device": str(place),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    for name, model in models.items():
        median = statistics.median(seconds[name])
        result[name] = {
            "seconds": median,
            "clips_per_second": batch / median,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "loss": losses[name],
        }
    return result


def _config(size: str, frame_size: tuple[int, int]) -> PretrainConfig:
    """The defaults of pre-training, with pixels as the one target."""
    return PretrainConfig.model_validate(
        {
            "data": "moving-shapes",
            "out": "unused",
            "clip": {"size": frame_size},
            "targets": {"pixel": {"weight": 1.0}},
            "model": {"size": size},
        }
    )


def _prepare(
    config: PretrainConfig, batch: int, device: torch.device
) -> tuple[dict[str, Step], dict[str, nn.Module]]:
    """Both models with the same weights, each with its step on the same batch."""
    generator = torch.Generator().manual_seed(config.train.seed)
    plan = plan_clip(config.clip, 0)
    shape = (batch, config.clip.frames, *config.clip.size, 3)
    frames = torch.randint(256, shape, dtype=torch.uint8, generator=generator).to(device)
    mask = make_mask(config.mask, config.clip.tokens, generator, batch).to(device)
    view = ClipView(
        frames=frames,
        real=torch.ones(batch, config.clip.frames, dtype=torch.bool, device=device),
        plan=plan,
        clip=config.clip,
        motion=config.motion,
    )
    clip = normalise(frames)
    theirs_clip = clip.transpose(1, 2).contiguous()
    maker = PixelTarget(config)
    ours, theirs = build_model(config, {"pixel": maker.dim}), _transformers_model(config)
    load_weights(ours, convert.transformers_autoencoder(theirs.state_dict()), "transformers")
    ours, theirs = ours.to(device), theirs.to(device)
    hidden = hidden_count(config.mask, config.clip.tokens)

    def our_loss() -> Tensor:
        loss: Tensor = ours(clip, mask, {"pixel": maker(view)}, hidden=hidden)["loss"]
        return loss

    def their_loss() -> Tensor:
        loss: Tensor = theirs(theirs_clip, mask).loss
        return loss

    steps = {
        "ours": _step([{"params": list(ours.parameters())}], our_loss, config.train, device),
        "transformers": _step(
            [{"params": list(theirs.parameters())}], their_loss, config.train, device
        ),
    }
    return steps, {"ours": ours, "transformers": theirs}


def _transformers_model(config: PretrainConfig) -> nn.Module:
    """transformers' model for a config with one linear pixel head."""
    try:
        from transformers import VideoMAEConfig, VideoMAEForPreTraining
    except ImportError as error:
        raise ConfigError(
            "transformers, which this compares with, is not installed; "
            "install it with: pip install 'm3video[hf]'"
        ) from error
    width, depth, heads, hidden = SIZES[config.model.size]
    settings: dict[str, Any] = {
        "image_size": list(config.clip.size),
        "patch_size": config.clip.patch,
        "num_frames": config.clip.frames,
        "tubelet_size": config.clip.tubelet,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": hidden,
        "decoder_hidden_size": config.model.decoder_width,
        "decoder_num_hidden_layers": config.model.decoder_depth,
        "decoder_num_attention_heads": config.model.decoder_heads,
        "decoder_intermediate_size": 4 * config.model.decoder_width,
        "layer_norm_eps": 1e-6,
        "use_mean_pooling": False,
        "norm_pix_loss": True,
        "attn_implementation": "sdpa",
    }
    model: nn.Module = VideoMAEForPreTraining(VideoMAEConfig(**settings))
    return model.train()


def _step(
    groups: list[dict[str, Any]],
    loss_of: Callable[[], Tensor],
    config: TrainConfig,
    device: torch.device,
) -> Step:
    optimiser = torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )

    def step() -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu"):
            loss = loss_of()
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def _take_turns(
    steps: dict[str, Step], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each step; who goes first alternates. One more turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(-1, repeats):
        for name in sorted(steps, reverse=turn % 2 == 1):
            wait(device)
            start = time.perf_counter()
            steps[name]()
            wait(device)
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def wait(device: torch.device) -> None:
    """Wait until a device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def pinned_threads(count: int) -> Iterator[None]:
    """Have torch and OpenCV use so many CPU threads."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def print_table(result: dict[str, Any]) -> None:
    """Show what `benchmark_train` found."""
    table = Table(
        title=f"{result['task']} step, ViT-{result['size'].upper()}, batch {result['batch']}, "
        f"{result['device']}, {result['threads']} CPU thread(s)"
    )
    for column in ("", "s / step", "clips / s", "parameters", "× transformers"):
        table.add_column(column, justify="right" if column else "left")
    for name in ("ours", "transformers"):
        row = result[name]
        ratio = f"{result['ratio_to_transformers']:.3f}" if name == "ours" else "1"
        table.add_row(
            name,
            f"{row['seconds']:.3f}",
            f"{row['clips_per_second']:.2f}",
            f"{row['parameters']:,}",
            ratio,
        )
    Console().print(table)
