"""Our whole training step: clips from files, targets, forward, backward, AdamW, as `pretrain` does.

- Clips come from 340×256 H.264 files made on the spot (or videos of yours) through the loader of a
  run, and its `Trainer` trains on them: nothing is left out and nothing is held ready.
- Utilisation is the model's FLOPs a second over those of a large matrix product in the same type,
  timed after each step. The model's FLOPs are those of its matrix products forward and backward, of
  the tokens that are computed: visible ones in the encoder. Recomputation does not count.
- Parts of a step, as shares of its time: waiting for data; targets, with normalising the input; the
  optimiser; and the model, which is the rest. Without workers, what a worker would do for the
  targets counts as targets; with workers it is behind the step, and told in seconds a clip.
- On a GPU parts are timed by events on its stream, and a step ends when the GPU is done. On a CPU
  without workers parts and utilisation are taken from processor seconds, all threads together, so
  that other load on the machine leaves them alone; clips a second are always those of the clock.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from m3video.benchmark.loader import make_clips
from m3video.benchmark.train import pinned_threads, wait
from m3video.config import PretrainConfig
from m3video.errors import ConfigError, DivergedError
from m3video.recipes import recipe_config
from m3video.targets.base import Target
from m3video.train.prefetch import prefetch
from m3video.train.prepare import Batch, Finish, Prepare
from m3video.train.step import Trainer, choose_device
from m3video.video.loader import Clips, VideoClips, make_loader
from m3video.video.manifest import load_manifest
from m3video.video.sampling import plan_run

Clock = Callable[[], float]
"""Seconds since some moment."""

_WARM_UP = 2
_PREPARED = "prepared"
"""Processor seconds that `Prepare` took for a clip."""


def benchmark_step(
    recipe: str = "mme",
    *,
    size: str | None = None,
    batch: int = 2,
    steps: int = 5,
    workers: int = 0,
    threads: int = 1,
    device: str = "cpu",
    compile: bool = False,
    videos: Path | None = None,
) -> dict[str, Any]:
    """Time whole training steps.

    Args:
        recipe: what is trained.
        size: of the encoder; None: the recipe's.
        batch: clips a step.
        steps: timed steps, after two that are not.
        workers: data worker processes; 0 loads in the step's time.
        threads: CPU threads of this process.
        device: a torch device; off the CPU the model runs in bf16 autocast.
        compile: run the model through torch.compile.
        videos: a folder or list of videos; None makes clips on the spot.

    Returns:
        Medians over the steps: `seconds` a step, `clips_per_second`, `processor_seconds` a step,
        None on a GPU and with workers; and, of processor seconds where they are not None,
        `matmul_flops` and `model_flops` a second and `utilisation` (their ratio, step by step).
        `flops` of a clip;
        `peak_memory` in bytes, allocated on a GPU, by how much the process grew on a CPU, None
        where it was larger before; `shares` of the time of all steps: data, targets, optimiser,
        model; `prepared`: processor seconds of a clip's targets before the step; what was timed.

    Raises:
        ConfigError: no such recipe or device, settings that are not allowed, or nothing to time.
        ManifestError: no readable videos.
        DivergedError: the loss is not finite, so that no step was taken.
    """
    for name, value in (("batch", batch), ("steps", steps), ("threads", threads)):
        if value < 1:
            raise ConfigError(f"{name} {value} must be at least 1")
    if workers < 0:
        raise ConfigError(f"workers {workers} must be at least 0")
    place = choose_device(device)
    changes: dict[str, Any] = {"train": {"batch": batch, "workers": workers, "compile": compile}}
    if size is not None:
        changes["model"] = {"size": size}
    with tempfile.TemporaryDirectory() as folder, pinned_threads(threads):
        config = recipe_config(recipe, data=str(videos or folder), out=Path(), changes=changes)
        if videos is None:
            make_clips(Path(folder), count=4)
        figures = _time(config, steps, place)
    return {
        **figures,
        "recipe": recipe,
        "size": config.model.size,
        "batch": batch,
        "steps": steps,
        "workers": workers,
        "threads": threads,
        "device": str(place),
        "compile": compile,
        "dtype": str(_dtype(place)).removeprefix("torch."),
        "made": videos is None,
        "versions": {"torch": version("torch")},
    }


def _time(config: PretrainConfig, steps: int, device: torch.device) -> dict[str, Any]:
    plan = plan_run(config)
    before = _peak_memory(device)
    trainer = Trainer(config, plan, device)
    alone = device.type == "cpu" and config.train.workers == 0
    clock = time.process_time if alone else time.perf_counter
    parts = Parts(device, clock)
    trainer.finish = _TimedFinish(config, plan, parts)
    trainer.optimizer.register_step_pre_hook(lambda *_: parts.begin("optimiser"))
    trainer.optimizer.register_step_post_hook(lambda *_: parts.end("optimiser"))
    source = VideoClips(
        load_manifest(config.data, decode=False),
        clip=config.clip,
        plan=plan,
        augment=config.augment,
    )
    loader = iter(
        make_loader(
            source,
            batch=config.train.batch,
            seed=config.train.seed,
            first_step=0,
            last_step=_WARM_UP + steps,
            workers=config.train.workers,
            prepare=_TimedPrepare(Prepare(config, plan)),
            pin_memory=device.type == "cuda",
        )
    )
    batches = prefetch(loader, device)
    seconds, busy, waits, prepared, rates = [], [], [], 0.0, []
    flops = peak = 0
    for number in range(1, _WARM_UP + steps + 1):
        if number == _WARM_UP + 1:
            parts.clear()
            prepared, peak = 0.0, 0
        begin, begin_busy = time.perf_counter(), clock()
        clips = next(batches)
        waits.append(clock() - begin_busy)
        preparing = clips.extras.pop(_PREPARED)
        result = trainer.step(clips, number, config.train.lr * config.train.batch / 256)
        wait(device)
        busy.append(clock() - begin_busy)
        seconds.append(time.perf_counter() - begin)
        prepared += float(preparing.sum())
        peak = max(peak, _peak_memory(device))  # the matrix product is not the step's
        if not result.finite:
            raise DivergedError(f"step {number}: loss {result.loss} or its gradient is not finite")
        rates.append(matmul_rate(device, clock))
        if number == 1:
            flops = model_flops(trainer, trainer.finish(clips.to(device)))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
    seconds, busy = seconds[_WARM_UP:], busy[_WARM_UP:]
    waits, rates = waits[_WARM_UP:], rates[_WARM_UP:]
    batch, total = config.train.batch, sum(busy)
    # Without workers the targets were made while the batch was waited for.
    in_step = prepared if config.train.workers == 0 else 0.0
    shares = {
        "data": (sum(waits) - in_step) / total,
        "targets": (parts.seconds("targets") + in_step) / total,
        "optimiser": parts.seconds("optimiser") / total,
    }
    model_rates = [batch * flops / each for each in busy]
    return {
        "seconds": statistics.median(seconds),
        "clips_per_second": batch / statistics.median(seconds),
        "processor_seconds": statistics.median(busy) if alone else None,
        "flops": flops,
        "model_flops": statistics.median(model_rates),
        "matmul_flops": statistics.median(rates),
        "utilisation": statistics.median(a / b for a, b in zip(model_rates, rates, strict=True)),
        "peak_memory": peak if device.type == "cuda" else (peak - before or None),
        "shares": {**shares, "model": 1 - sum(shares.values())},
        "prepared": prepared / (steps * batch),
    }


class Parts:
    """How long parts of the steps take: by events on a GPU, elsewhere by a clock."""

    def __init__(self, device: torch.device, clock: Clock) -> None:
        self._device = device
        self._clock = clock
        self._marks: dict[str, list[Any]] = defaultdict(list)

    def begin(self, name: str) -> None:
        """A part begins; an `end` follows."""
        self._marks[name].append(self._mark())

    end = begin

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """A part lasts as long as this context."""
        self.begin(name)
        yield
        self.end(name)

    def clear(self) -> None:
        """Forget what was timed."""
        self._marks.clear()

    def seconds(self, name: str) -> float:
        """In all, once the device is done."""
        wait(self._device)
        marks = self._marks[name]
        pairs = zip(marks[::2], marks[1::2], strict=True)
        if self._device.type == "cuda":
            return float(sum(begin.elapsed_time(end) for begin, end in pairs)) / 1000
        return float(sum(end - begin for begin, end in pairs))

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


class _TimedFinish(Finish):
    def __init__(self, config: PretrainConfig, plan: Any, parts: Parts) -> None:
        super().__init__(config, plan)
        self._parts = parts

    def __call__(self, clips: Clips) -> Batch:
        with self._parts.timed("targets"):
            return super().__call__(clips)


@dataclass(frozen=True)
class _TimedPrepare:
    prepare: Prepare

    def __call__(self, clip: Clips, generator: torch.Generator) -> Clips:
        begin = time.process_time()
        clip = self.prepare(clip, generator)
        clip.extras[_PREPARED] = torch.tensor(time.process_time() - begin)
        return clip


def model_flops(trainer: Trainer, batch: Batch) -> int:
    """FLOPs of forward and backward for one clip; its gradient is thrown away.

    Attention is counted as the products that define it: fused kernels compute some twice.
    """
    targets = {
        name: Target(target.values[:1], target.valid[:1]) for name, target in batch.targets.items()
    }
    decode = None if batch.decode is None else batch.decode[:1]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        output = trainer.model(
            batch.clip[:1],
            batch.mask[:1],
            targets,
            hidden=trainer.hidden,
            decode=decode,
            decoded=trainer.decoded,
        )
        torch.autograd.backward(output["loss"])
    trainer.optimizer.zero_grad(set_to_none=True)
    return int(counter.get_total_flops())


def _dtype(device: torch.device) -> torch.dtype:
    """What a step multiplies in: the recipes leave it at `auto`."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def matmul_rate(device: torch.device, clock: Clock = time.perf_counter) -> float:
    """FLOPs a second of a large matrix product: the best of three."""
    side = 1024 if device.type == "cpu" else 8192
    left, right, out = (torch.ones(side, side, dtype=_dtype(device), device=device) for _ in "abc")
    best = float("inf")
    for _ in range(3):
        wait(device)
        begin = clock()
        torch.mm(left, right, out=out)
        wait(device)
        best = min(best, clock() - begin)
    return 2 * side**3 / best


def _peak_memory(device: torch.device) -> int:
    """Bytes at most so far, since the last reset on a GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def print_table(result: dict[str, Any]) -> None:
    """Show what `benchmark_step` found."""
    compiled = "compiled" if result["compile"] else "not compiled"
    table = Table(
        title=f"whole step of {result['recipe']}, ViT-{result['size'].upper()}, batch "
        f"{result['batch']}, {result['device']}, {result['dtype']}, {compiled}, "
        f"{result['threads']} CPU thread(s), {result['workers']} workers"
    )
    table.add_column("")
    table.add_column("", justify="right")
    memory, shares, busy = result["peak_memory"], result["shares"], result["processor_seconds"]
    rows = {
        "s / step": f"{result['seconds']:.3f}",
        "clips / s": f"{result['clips_per_second']:.2f}",
        "processor s / step": "not measured" if busy is None else f"{busy:.3f}",
        "model, GFLOP / clip": f"{result['flops'] / 1e9:.2f}",
        "model, GFLOP / s": f"{result['model_flops'] / 1e9:.1f}",
        "matrix product, GFLOP / s": f"{result['matmul_flops'] / 1e9:.1f}",
        "utilisation": f"{result['utilisation']:.3f}",
        "peak memory, MiB": "not measured" if memory is None else f"{memory / 2**20:.0f}",
        **{f"share of time: {name}": f"{share:.3f}" for name, share in shares.items()},
        "targets before the step, processor s / clip": f"{result['prepared']:.3f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    Console().print(table)
