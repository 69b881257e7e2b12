"""Exports compute what the model computes, in the programs that they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from m3video.config import ClipConfig, ExportConfig, ImportConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model import (
    Classifier,
    VisionTransformer,
    build_encoder,
    export,
    load_classifier,
    load_model,
    save_model,
)
from m3video.model.checkpoint import load_encoder
from m3video.model.export import Exported, export_model
from m3video.model.importing import import_weights
from m3video.model.resize import resize_encoder
from m3video.video.augment import MEAN, to_clip
from m3video.video.reader import read_frames

CLIPS = Path(__file__).parents[3] / "shared" / "data" / "clips"
CLIP = ClipConfig(frames=4, stride=3, size=(16, 24), patch=8)
LABELS = ("jump", "fall", "été")


def stirred(model: torch.nn.Module) -> None:
    """Norms and biases that are not 1 and 0, and a head that is not 0."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)


def encoder(clip: ClipConfig = CLIP, *, final_norm: bool = True) -> VisionTransformer:
    torch.manual_seed(5)
    model = VisionTransformer(
        **clip.model_dump(exclude={"stride"}),
        width=24,
        depth=2,
        heads=3,
        mlp_ratio=3.0,
        final_norm=final_norm,
    )
    model.clip = clip
    stirred(model)
    return model.eval()


def classifier(clip: ClipConfig = CLIP) -> Classifier:
    model = Classifier(encoder(clip), LABELS)
    stirred(model)
    return model.eval()


def exported(model: VisionTransformer | Classifier, out: Path, form: str) -> Exported:
    clip = model.encoder.clip if isinstance(model, Classifier) else model.clip
    save_model(model, out.parent / "model", clip)
    config = {"model": out.parent, "out": out, "format": form}
    return export_model(ExportConfig.model_validate(config))


def clips(clip: ClipConfig, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, clip.frames, *clip.size, generator=generator)


def error(theirs: Tensor, ours: Tensor) -> float:
    return ((theirs - ours).abs().max() / ours.abs().max()).item()


def weights_are_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_safetensors_is_a_model_directory_that_stands_alone(tmp_path: Path) -> None:
    model = classifier()
    result = exported(model, tmp_path / "copy", "safetensors")
    assert result.deviation is None
    (tmp_path / "model").rename(tmp_path / "gone")
    loaded = load_classifier(tmp_path / "copy")
    assert loaded.labels == LABELS
    assert torch.equal(loaded(clips(CLIP)), model(clips(CLIP)))
    assert (tmp_path / "copy" / "model.safetensors").stat().st_mode & 0o777 == (
        tmp_path / "copy" / "config.json"
    ).stat().st_mode & 0o777


@pytest.mark.parametrize("final_norm", [True, False])
def test_transformers_loads_the_encoder_and_back_it_is_the_same(
    tmp_path: Path, final_norm: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    model = encoder(final_norm=final_norm)
    result = exported(model, tmp_path / "hf", "hf")
    theirs, info = transformers.VideoMAEModel.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        tokens = theirs.eval()(clips(CLIP).transpose(1, 2)).last_hidden_state
        assert error(tokens, model(clips(CLIP))) < 1e-5
    assert result.deviation is not None
    assert result.deviation < 1e-5
    import_weights(ImportConfig(source=tmp_path / "hf", out=tmp_path / "back"))
    back = load_encoder(tmp_path / "back")
    assert weights_are_equal(back, model)
    assert back.clip == CLIP
    assert back.architecture == model.architecture


def test_transformers_loads_the_classifier_and_back_it_is_the_same(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = classifier()
    result = exported(model, tmp_path / "hf", "hf")
    theirs, info = transformers.VideoMAEForVideoClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id["été"] == 2
    with torch.no_grad():
        ours, logits = model(clips(CLIP)), theirs.eval()(clips(CLIP).transpose(1, 2)).logits
    assert error(logits, ours) == pytest.approx(result.deviation, rel=0.9, abs=1e-6)
    assert "1e-05 in the norm before the head, this one 1e-06" in result.note
    # All that is left is the epsilon, which transformers does not let set.
    theirs.fc_norm.eps = 1e-6
    with torch.no_grad():
        assert error(theirs(clips(CLIP).transpose(1, 2)).logits, ours) < 1e-5
    import_weights(ImportConfig(source=tmp_path / "hf", out=tmp_path / "back"))
    back = load_classifier(tmp_path / "back")
    assert weights_are_equal(back, model)
    assert back.labels == LABELS
    assert torch.equal(back(clips(CLIP)), model(clips(CLIP)))


@pytest.mark.parametrize("size", [(32, 32), (16, 24)])
def test_the_preprocessor_prepares_frames_as_we_do(tmp_path: Path, size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    clip = ClipConfig(frames=4, stride=1, size=size, patch=8)
    exported(encoder(clip), tmp_path / "hf", "hf")
    kind = getattr(transformers, "VideoMAEImageProcessorPil", transformers.VideoMAEImageProcessor)
    processor = kind.from_pretrained(tmp_path / "hf")
    rng = np.random.default_rng(0)
    # Frames whose shorter edge it need not resize, so that only crop and normalisation are left.
    edge = max(size)
    frames = rng.integers(0, 256, (4, edge, edge + 8, 3)).astype(np.uint8)
    values = processor(list(frames), return_tensors="pt").pixel_values
    top, left = (edge - size[0]) // 2, (edge + 8 - size[1]) // 2
    cut = frames[:, top : top + size[0], left : left + size[1]]
    ours = to_clip(torch.from_numpy(cut), clip)
    assert values.shape == (1, 4, 3, *size)
    assert torch.allclose(values.transpose(1, 2), ours, atol=1e-5)


def test_a_resized_encoder_is_none_for_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    wanted = ClipConfig(frames=8, stride=1, size=(24, 40), patch=8)
    with pytest.raises(ConfigError, match="resized from 4 frames of 16×24, and transformers") as e:
        exported(resize_encoder(encoder(), wanted), tmp_path / "hf", "hf")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "hf").exists()
    # To the same size it is the same table.
    exported(resize_encoder(encoder(), CLIP), tmp_path / "hf", "hf")


def test_onnx_takes_any_batch_and_resized_positions(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    wanted = ClipConfig(frames=8, stride=1, size=(24, 40), patch=8)
    model = Classifier(resize_encoder(encoder(), wanted), LABELS).eval()
    stirred(model)
    result = exported(model, tmp_path / "m.onnx", "onnx")
    assert result.deviation is not None
    assert result.deviation < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [(i.name, i.shape[1:]) for i in session.get_inputs()] == [("clip", [3, 8, 24, 40])]
    for batch in (1, 2, 5):
        (logits,) = session.run(["logits"], {"clip": clips(wanted, batch).numpy()})
        with torch.no_grad():
            assert error(torch.from_numpy(logits), model(clips(wanted, batch))) < 1e-4
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["labels"]) == list(LABELS)
    assert json.loads(known["clip"])["stride"] == 1
    assert json.loads(known["mean"]) == list(MEAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "model"]


def test_torch_takes_any_batch_and_resized_positions(tmp_path: Path) -> None:
    wanted = ClipConfig(frames=8, stride=1, size=(24, 40), patch=8)
    model = resize_encoder(encoder(), wanted)
    result = exported(model, tmp_path / "m.pt2", "torch")
    assert result.deviation is not None
    assert result.deviation < 1e-5
    extra = {"config.json": ""}
    program = torch.export.load(tmp_path / "m.pt2", extra_files=extra).module()
    for batch in (1, 2, 5):
        with torch.no_grad():
            assert error(program(clips(wanted, batch)), model(clips(wanted, batch))) < 1e-5
    assert json.loads(extra["config.json"])["clip"]["size"] == [24, 40]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt2", "model"]


def test_an_export_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = export.deviation

    def wrong(model: Any, theirs: Any, **settings: Any) -> float:
        return found(model, lambda clip: theirs(clip) * (1 + 1e-3), **settings)

    monkeypatch.setattr(export, "deviation", wrong)
    with pytest.raises(CheckpointError, match=r"torch.export computes something else: .* 1.0e-03"):
        exported(encoder(), tmp_path / "m.pt2", "torch")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_outputs_that_are_not_numbers_are_no_agreement() -> None:
    model = encoder()

    def nothing(clips: Tensor) -> Tensor:
        return torch.full_like(model(clips), torch.nan)

    with pytest.raises(CheckpointError, match="computes something else"):
        export.check_deviation(export.deviation(model, nothing, (1, 2)), 1e-4, "it")
    with torch.no_grad():
        model.patch_embed.bias.fill_(torch.nan)  # a training that diverged
    assert not export.deviation(model, model) <= 1


def test_places_and_formats_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(encoder(), tmp_path / "copy", "safetensors")
    with pytest.raises(ConfigError, match="copy: there is something already"):
        exported(encoder(), tmp_path / "copy", "safetensors")
    with pytest.raises(CheckpointError, match="not there; give a run directory"):
        export_model(ExportConfig(model=tmp_path / "no", out=tmp_path / "x"))
    for form, out, words in (
        ("onnx", "x", "must end in .onnx for format onnx"),
        ("torch", "x.onnx", "must end in .pt2"),
        ("hf", "x.pt2", "is a folder for format hf"),
    ):
        with pytest.raises(ValueError, match=words):
            ExportConfig.model_validate({"model": tmp_path, "out": out, "format": form})
    monkeypatch.setattr(export, "ONNX_LIMIT", 1000)
    pytest.importorskip("onnxscript")
    with pytest.raises(ConfigError, match=r"one file holds at most 2 GB, these weights have 0.0"):
        exported(encoder(), tmp_path / "m.onnx", "onnx")


@pytest.mark.parametrize(
    ("form", "out", "package"),
    [("hf", "hf", "transformers"), ("onnx", "m.onnx", "onnxruntime"), ("onnx", "m.onnx", "onnx")],
)
def test_an_extra_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, out: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    extra = rf"{package} is not installed; pip install 'm3video\[{form}\]'"
    with pytest.raises(ConfigError, match=extra):
        exported(encoder(), tmp_path / out, form)


@pytest.mark.slow
def test_real_clips_have_the_same_features_in_transformers(tmp_path: Path) -> None:
    """ViT-S on 8 frames of 64×96 of a real video."""
    transformers = pytest.importorskip("transformers")
    path = CLIPS / "nasa_13013.mp4"
    if not path.exists():
        pytest.skip("no ../shared/data/clips/nasa_13013.mp4")
    clip = ClipConfig(frames=8, stride=8, size=(64, 96))
    torch.manual_seed(0)
    model = build_encoder(clip, "s").eval()
    stirred(model)
    exported(model, tmp_path / "hf", "hf")
    theirs = transformers.VideoMAEModel.from_pretrained(tmp_path / "hf").eval()
    frames = to_clip(read_frames(path, start=0, count=64), clip)
    with torch.no_grad():
        found = error(theirs(frames.transpose(1, 2)).last_hidden_state, model(frames))
    assert found < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("size", ["s", "b"])
@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("form", ["hf", "onnx", "torch"])
def test_published_sizes(tmp_path: Path, size: str, classes: bool, form: str) -> None:
    """Random weights at 16 frames of 224², through the checks of the export itself."""
    torch.manual_seed(0)
    model: VisionTransformer | Classifier = build_encoder(ClipConfig(), size)
    if classes:
        model = Classifier(build_encoder(ClipConfig(), size), tuple(map(str, range(400))))
    stirred(model)
    out = tmp_path / {"hf": "hf", "onnx": "m.onnx", "torch": "m.pt2"}[form]
    result = exported(model.eval(), out, form)
    print(f"{size} {'classifier' if classes else 'encoder'} {form}: {result.deviation:.1e}")
    assert result.deviation is not None
    assert result.deviation < (1e-4 if form == "onnx" else 1e-5) or (classes and form == "hf")
    if form == "hf":
        import_weights(ImportConfig(source=out, out=tmp_path / "back"))
        assert weights_are_equal(load_model(tmp_path / "back"), model)
