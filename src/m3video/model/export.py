"""A model -> files for other programs: the verb `export`.

Every export is run beside the model on the same random clips before it appears under its name; one
that computes something else is not written.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m3video.config import ExportConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model.checkpoint import load_model, save_model
from m3video.model.classifier import Classifier
from m3video.model.hub import check_hub, model_card, upload
from m3video.model.vit import VisionTransformer
from m3video.video.augment import MEAN, STD
from m3video.whole import written_whole

Model = VisionTransformer | Classifier
Outputs = Callable[[Tensor], Tensor]
"""float [B, 3, T, H, W] -> tokens [B, N, D] or logits [B, C], as another program computes them."""

ONNX_LIMIT = 2**31
"""Bytes of one ONNX file."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder or file.
        deviation: largest difference of the outputs from ours, as a share of our largest output;
            None where the weights are copied and nothing is computed.
        note: what a user must know of it, or "".
        url: where it was uploaded to, or None.
    """

    path: Path
    deviation: float | None
    note: str = ""
    url: str | None = None

    def describe(self) -> str:
        """A few lines for the terminal."""
        lines = [str(self.path)]
        if self.deviation is not None:
            lines.append(f"outputs differ by {self.deviation:.1e} of the largest")
        if self.note:
            lines.append(self.note)
        if self.url is not None:
            lines.append(
                f"uploaded: {self.url} (a new repository is private: choose a licence in its "
                "README.md before you make it public)"
            )
        return "\n".join(lines)


def export_model(config: ExportConfig) -> Exported:
    """Write a model for other programs, and check that it computes the same there.

    Args:
        config: the run or model directory, the format, and where to.

    Returns:
        Where it is and how far its outputs are from ours.

    Raises:
        ConfigError: the format cannot hold this model, its extra is not installed, or something is
            at `out` already.
        CheckpointError: no model there, the export computes something else, or it could not be
            uploaded; in the first two cases nothing is written.
    """
    out = config.out
    if out.exists() and not (
        out.is_dir() and config.format in ("safetensors", "hf") and not any(out.iterdir())
    ):
        raise ConfigError(f"out {out}: there is something already; choose another --out")
    model = load_model(config.model)
    if config.push is not None:
        check_hub()
    exported = _WRITERS[config.format](model, out)
    if config.push is None:
        return exported
    card = model_card(config.model, model, config.format, config.push, out.name)
    return replace(exported, url=upload(out, card, config.push))


def encoder_of(model: Model) -> VisionTransformer:
    """The encoder itself, or that of a classifier."""
    return model.encoder if isinstance(model, Classifier) else model


def random_clips(model: Model, batch: int) -> Tensor:
    """Clips to compare outputs on: float32 [B, 3, T, H, W], the same in every call."""
    clip = encoder_of(model).clip
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, clip.frames, *clip.size, generator=generator)


@torch.inference_mode()
def deviation(model: Model, theirs: Outputs, batches: tuple[int, ...] = (2,)) -> float:
    """Largest difference of two models' outputs, as a share of ours; NaN where one of them is."""
    found = []
    for batch in batches:
        clips = random_clips(model, batch)
        ours = model(clips)
        difference = (theirs(clips) - ours).abs().max() / ours.abs().max().clamp(min=1e-12)
        found.append(difference)
    return torch.stack(found).max().item()  # unlike Python's max it keeps a NaN


def check_deviation(found: float, allowed: float, program: str) -> None:
    """Refuse an export that computes something else.

    Raises:
        CheckpointError: it does.
    """
    if not found <= allowed:
        raise CheckpointError(
            f"{program} computes something else: its outputs differ by {found:.1e} of the largest, "
            f"{allowed:.0e} is allowed; nothing was written"
        )


def describe_input(model: Model) -> dict[str, Any]:
    """What a program needs to know to feed the model: clip, mean, std, labels."""
    encoder = encoder_of(model)
    found: dict[str, Any] = {
        "clip": encoder.clip.model_dump(mode="json"),
        "mean": list(MEAN),
        "std": list(STD),
    }
    if isinstance(model, Classifier):
        found["labels"] = list(model.labels)
    return found


def _write_safetensors(model: Model, out: Path) -> Exported:
    save_model(model, out, encoder_of(model).clip)
    return Exported(out, None)


def _write_hf(model: Model, out: Path) -> Exported:
    from m3video.model.export_hf import write_transformers

    found, note = write_transformers(model, out)
    return Exported(out, found, note)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what exporters say of themselves: torchvision's operators that they do not find,
    and deprecated calls inside torch."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _write_onnx(model: Model, out: Path) -> Exported:
    """One ONNX file: input `clip`, output `tokens` or `logits`, any batch size."""
    try:
        onnx, onnxruntime, _ = map(import_module, ("onnx", "onnxruntime", "onnxscript"))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"format onnx: {error.name} is not installed; pip install 'm3video[onnx]'"
        ) from error
    size = sum(weight.nbytes for weight in model.state_dict().values())
    if size >= ONNX_LIMIT:
        raise ConfigError(
            f"format onnx: one file holds at most 2 GB, these weights have {size / 2**30:.1f}; "
            "use --format torch"
        )
    with _quiet():
        program = torch.onnx.export(
            model,
            (random_clips(model, 2),),
            dynamo=True,
            input_names=["clip"],
            output_names=["logits" if isinstance(model, Classifier) else "tokens"],
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            opset_version=18,
            verbose=False,
        )
    assert program is not None  # it is without a path
    proto = program.model_proto
    for name, value in describe_input(model).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, json.dumps(value, ensure_ascii=False)
    with written_whole(out) as aside:
        onnx.save(proto, aside)
        session = onnxruntime.InferenceSession(aside, providers=["CPUExecutionProvider"])

        def theirs(clips: Tensor) -> Tensor:
            (output,) = session.run(None, {"clip": clips.numpy()})
            return torch.from_numpy(output)

        found = deviation(model, theirs, batches=(1, 3))
        check_deviation(found, 1e-4, "onnxruntime")
    return Exported(out, found)


def _write_torch(model: Model, out: Path) -> Exported:
    """A program of torch.export, any batch size; `config.json` in it describes the input."""
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            model, (random_clips(model, 2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
        )
    extra = {"config.json": json.dumps(describe_input(model), ensure_ascii=False)}
    with written_whole(out) as aside:
        with aside.open("wb") as file:
            torch.export.save(program, file, extra_files=extra)
        with aside.open("rb") as file:
            again = torch.export.load(file).module()
        found = deviation(model, again, batches=(1, 3))
        check_deviation(found, 1e-5, "torch.export")
    return Exported(out, found)


_WRITERS: dict[str, Callable[[Model, Path], Exported]] = {
    "safetensors": _write_safetensors,
    "hf": _write_hf,
    "onnx": _write_onnx,
    "torch": _write_torch,
}
