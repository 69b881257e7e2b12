"""A model -> a repository on the Hugging Face Hub, with a model card filled from its run."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from m3video.errors import CheckpointError, ConfigError
from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer

_USE = {
    "safetensors": "import m3video\nfrom huggingface_hub import snapshot_download\n\n"
    'model = m3video.{loader}(snapshot_download("{repo}"))',
    "hf": 'from transformers import {cls}\n\nmodel = {cls}.from_pretrained("{repo}")',
    "onnx": "import onnxruntime\n\n"
    'session = onnxruntime.InferenceSession("{file}")\n'
    '({output},) = session.run(None, {{"clip": clip}})  # float32 [B, 3, T, H, W]',
    "torch": 'import torch\n\nmodel = torch.export.load("{file}").module()\n'
    "{output} = model(clip)  # float32 [B, 3, T, H, W]",
}


def model_card(
    source: Path, model: VisionTransformer | Classifier, form: str, repo: str, name: str
) -> str:
    """README.md of a repository: what the model is, how it was trained, what was measured.

    What the run directory does not tell is left out. Of paths only the last part is told; the
    licence is left for the user to choose.

    Args:
        source: the run or model directory.
        model: the model in it.
        form: the format of the export.
        repo: USER/NAME.
        name: of the folder or file of the export.
    """
    parts = [_front_matter(model, form), f"# {repo.split('/')[1]}", _model(model)]
    settings = _settings(source)
    if settings:
        parts += ["## Training", _training(settings, source)]
    measured = _measured(source)
    if measured:
        parts += ["## Measured", measured]
    parts += ["## Use", _use(model, form, repo, name)]
    if settings:
        text = yaml.safe_dump(_last_parts(settings), sort_keys=False, allow_unicode=True)
        parts += ["## All settings", f"```yaml\n{text}```"]
    return "\n\n".join(parts) + "\n"


def check_hub() -> None:
    """Refuse to begin where an upload could only fail.

    Raises:
        ConfigError: huggingface_hub is not installed, nobody is logged in, or no network.
    """
    hub = _hub()
    try:
        hub.HfApi().whoami()
    except (hub.errors.HTTPError, hub.errors.LocalTokenNotFoundError, OSError) as error:
        raise ConfigError(
            f"push: the Hub does not know you ({_first_line(error)}); log in with `hf auth login`"
        ) from error


def upload(path: Path, card: str, repo: str) -> str:
    """Upload an export in one commit; a new repository is private.

    A README.md that is there already is the user's, and stays.

    Args:
        path: the folder or file of the export.
        card: the README.md.
        repo: USER/NAME.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: it could not be uploaded; the export itself stays.
    """
    hub = _hub()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    operations = [
        hub.CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=str(file)) for file in files
    ]
    api = hub.HfApi()
    try:
        address = str(api.create_repo(repo, private=True, exist_ok=True))
        if not api.file_exists(repo, "README.md"):
            operations.append(
                hub.CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode())
            )
        api.create_commit(repo, operations, commit_message="Model exported by m3video")
    except (hub.errors.HTTPError, hub.errors.HFValidationError, OSError) as error:
        raise CheckpointError(
            f"{path} is written, but not uploaded to {repo}: {_first_line(error)}"
        ) from error
    return address


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError as error:
        raise ConfigError(
            "push: huggingface_hub is not installed; pip install 'm3video[hf]'"
        ) from error
    return huggingface_hub


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _front_matter(model: VisionTransformer | Classifier, form: str) -> str:
    lines = ["---", "# license: choose one, such as apache-2.0"]
    lines.append(f"library_name: {'transformers' if form == 'hf' else 'm3video'}")
    if isinstance(model, Classifier):
        lines.append("pipeline_tag: video-classification")
    return "\n".join([*lines, "tags: [video, self-supervised, m3video]", "---"])


def _model(model: VisionTransformer | Classifier) -> str:
    encoder = model.encoder if isinstance(model, Classifier) else model
    clip, shape = encoder.clip, encoder.architecture
    height, width = clip.size
    what = "A video transformer that turns clips into tokens"
    if isinstance(model, Classifier):
        names = ", ".join(model.labels[:10]) + (", …" if len(model.labels) > 10 else "")
        what = f"A video transformer that tells {len(model.labels)} classes apart ({names})"
    return (
        f"{what}, exported by M³Video {version('m3video')}: width "
        f"{shape['width']}, {shape['depth']} blocks, {shape['heads']} heads. It reads "
        f"{clip.frames} frames, {clip.stride} apart, of {height}×{width} pixels."
    )


def _settings(source: Path) -> dict[str, Any]:
    """The config.yaml of a run; empty for a model directory."""
    path = source / "config.yaml"
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read: {_first_line(error)}") from error
    return found if isinstance(found, dict) else {}


def _training(settings: dict[str, Any], source: Path) -> str:
    """A table of what matters most; what a kind of run does not have is left out."""
    rows = {"data": _last_parts(settings.get("data")), "init": _last_parts(settings.get("init"))}
    targets = settings.get("targets")
    if isinstance(targets, dict):
        weights = {
            name: value["weight"]
            for name, value in targets.items()
            if isinstance(value, dict) and value.get("weight")
        }
        rows["targets"] = ", ".join(f"{name} (weight {w:g})" for name, w in weights.items())
    mask = settings.get("mask")
    if isinstance(mask, dict):
        rows["mask"] = f"{mask.get('kind')}, {mask.get('ratio')} hidden"
    train = settings.get("train")
    train = train if isinstance(train, dict) else {}
    rows["steps"] = _last_step(source)
    for name in ("epochs", "batch", "lr", "precision", "seed"):
        rows[name] = train.get(name)
    if train.get("steps"):
        rows["epochs"] = None  # ignored where steps are given
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *lines])


def _last_step(source: Path) -> int | None:
    """Steps that were made, by the last whole line of metrics.jsonl."""
    path = source / "metrics.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _measured(source: Path) -> str:
    """A table of the tests and probes that lie in the run: a fine-tuned model has the former."""
    lines = []
    for path in sorted([*source.glob("evaluation.json"), *source.glob("*/evaluation.json")]):
        found = _figures(path)
        if "top1" in found:
            figures = f"fine-tuned, top-1 {100 * found['top1']:.1f} %"
            if "top5" in found:
                figures += f", top-5 {100 * found['top5']:.1f} %"
            lines.append(f"| {path.parent.name} | {figures} | {_chance(found)} |")
    for path in sorted(source.glob("probe-*.json")):
        found = _figures(path)
        kinds = [name for name in ("linear", "attentive", "knn") if name in found]
        figures = ", ".join(f"{name} {100 * found[name]:.1f} %" for name in kinds)
        if figures:
            name = path.stem.removeprefix("probe-")
            lines.append(f"| {name} | frozen, {figures} | {_chance(found)} |")
    return "\n".join(["| data | accuracy | chance |", "|---|---|---|", *lines]) if lines else ""


def _figures(path: Path) -> dict[str, float]:
    """The numbers at the top of a JSON file; none where it cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    numbers = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in numbers if isinstance(value, int | float)}


def _chance(found: dict[str, float]) -> str:
    return f"{100 * found['chance']:.1f} %" if "chance" in found else ""


def _use(model: VisionTransformer | Classifier, form: str, repo: str, name: str) -> str:
    classes = isinstance(model, Classifier)
    code = _USE[form].format(
        loader="load_classifier" if classes else "load_encoder",
        cls="VideoMAEForVideoClassification" if classes else "VideoMAEModel",
        repo=repo,
        file=name,
        output="logits" if classes else "tokens",
    )
    return (
        f"```python\n{code}\n```\n\nFrames are RGB, scaled to 0 … 1 and normalised with the mean "
        "and deviation of ImageNet."
    )


def _last_parts(value: Any) -> Any:
    """Settings with paths cut to their last part: where they lay is nobody's business."""
    if isinstance(value, dict):
        return {name: _last_parts(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_last_parts(inner) for inner in value]
    if isinstance(value, str) and ("/" in value or "\\" in value):
        return value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    return value
