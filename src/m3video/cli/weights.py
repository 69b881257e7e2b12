"""The verbs `import` and `export`: weights of others in, ours out."""

from __future__ import annotations

from m3video.cli.parse import parse
from m3video.config import ExportConfig, ImportConfig


def import_verb(arguments: list[str]) -> int:
    """Turn weights of VideoMAE, MME, TrackMAE or transformers into a model directory."""
    config = parse(ImportConfig, arguments, verb="import")
    from m3video.model.importing import import_weights

    print(import_weights(config).describe())
    print(f"model: {config.out}")
    return 0


def export_verb(arguments: list[str]) -> int:
    """Write a model for transformers, ONNX, torch.export or as plain safetensors."""
    config = parse(ExportConfig, arguments, verb="export")
    from m3video.model.export import export_model

    print(export_model(config).describe())
    return 0
