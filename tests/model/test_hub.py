"""Uploads and model cards, with a Hub that is played: nothing leaves the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from m3video.config import ExportConfig
from m3video.errors import CheckpointError, ConfigError
from m3video.model import Classifier, save_model
from m3video.model.export import export_model
from m3video.model.hub import model_card
from m3video.recipes import recipe_config
from m3video.train.run import RunDirectory
from tests.model.test_checkpoint import CLIP, classifier, encoder

huggingface_hub = pytest.importorskip("huggingface_hub")
errors = pytest.importorskip("huggingface_hub.errors")


class PlayedHub:
    """What the Hub would do, and what it was given."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.errors: dict[str, Exception] = {}

    def _called(self, call: str, **settings: Any) -> None:
        self.calls.append((call, settings))
        if call in self.errors:
            raise self.errors[call]

    def whoami(self) -> dict[str, str]:
        self._called("whoami")
        return {"name": "ada"}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        self._called("create_repo", repo_id=repo_id, private=private, exist_ok=exist_ok)
        return f"https://huggingface.co/{repo_id}"

    def file_exists(self, repo_id: str, filename: str) -> bool:
        return filename in self.files

    def create_commit(self, repo_id: str, operations: list[Any], *, commit_message: str) -> None:
        self._called("create_commit", repo_id=repo_id, message=commit_message)
        for operation in operations:
            with operation.as_file() as file:
                self.files[operation.path_in_repo] = file.read()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> PlayedHub:
    played = PlayedHub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: played)
    return played


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory as `pretrain` and `probe` leave it, with paths that tell where it lay."""
    path = tmp_path / "runs" / "mme"
    config = recipe_config("mme", data="/home/ada/secret/clips", out=path)
    config = config.model_copy(update={"init": Path("/home/ada/models/start")})
    directory = RunDirectory(path)
    directory.create(config, None, "cpu")
    lines = [json.dumps({"step": step, "loss": 1.0}) for step in (1, 2, 300)]
    directory.metrics.write_text("\n".join(lines) + '\n{"step": 30')
    probe = {"linear": 0.58333, "knn": 0.5, "chance": 0.0833, "classes": 12}
    (path / "probe-moving-shapes.json").write_text(json.dumps(probe))
    (path / "probe-broken.json").write_text("{")
    save_model(encoder(), directory.model, CLIP)
    return path


def push(source: Path, out: Path, form: str = "safetensors") -> Any:
    config = {"model": source, "out": out, "format": form, "push": "ada/mme"}
    return export_model(ExportConfig.model_validate(config))


def test_a_folder_is_uploaded_with_its_card_to_a_private_repository(
    hub: PlayedHub, run: Path, tmp_path: Path
) -> None:
    result = push(run, tmp_path / "out")
    assert hub.calls[1] == (
        "create_repo",
        {"repo_id": "ada/mme", "private": True, "exist_ok": True},
    )
    assert sorted(hub.files) == ["README.md", "config.json", "model.safetensors"]
    assert hub.files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert "uploaded: https://huggingface.co/ada/mme" in result.describe()


def test_the_card_tells_of_the_run_and_not_of_the_machine(
    hub: PlayedHub, run: Path, tmp_path: Path
) -> None:
    push(run, tmp_path / "out")
    card = hub.files["README.md"].decode()
    front, body = card.split("---\n", 2)[1:]
    assert "license" not in yaml.safe_load(front)  # the user's to choose
    assert "# license:" in front
    assert yaml.safe_load(front)["library_name"] == "m3video"
    for words in (
        "# mme",
        "4 frames, 3 apart, of 16×24 pixels",
        "| data | clips |",
        "| init | start |",
        "| targets | ",
        "trajectory",
        "| mask | tube, 0.7 hidden |",
        "| steps | 300 |",
        "| batch | ",
        "| moving-shapes | frozen, linear 58.3 %, knn 50.0 % | 8.3 % |",
        'm3video.load_encoder(snapshot_download("ada/mme"))',
    ):
        assert words in body, words
    assert "secret" not in card
    assert "/home" not in card
    assert str(tmp_path) not in card


def test_a_file_is_uploaded_under_its_name(hub: PlayedHub, tmp_path: Path) -> None:
    save_model(classifier(), tmp_path / "model", CLIP)
    push(tmp_path / "model", tmp_path / "jump.pt2", "torch")
    assert sorted(hub.files) == ["README.md", "jump.pt2"]
    card = hub.files["README.md"].decode()
    assert 'torch.export.load("jump.pt2")' in card
    assert "3 classes apart (jump, fall, été)" in card
    assert "pipeline_tag: video-classification" in card
    assert "## Training" not in card


def test_a_readme_that_is_there_is_the_users(hub: PlayedHub, run: Path, tmp_path: Path) -> None:
    hub.files["README.md"] = b"license: mit"
    push(run, tmp_path / "out")
    assert hub.files["README.md"] == b"license: mit"
    assert "model.safetensors" in hub.files


@pytest.mark.parametrize(
    "error", [errors.LocalTokenNotFoundError("Token is required\nmore"), OSError("no network")]
)
def test_nothing_begins_without_a_login(
    hub: PlayedHub, run: Path, tmp_path: Path, error: Exception
) -> None:
    hub.errors["whoami"] = error
    with pytest.raises(
        ConfigError, match=r"the Hub does not know you .* log in with `hf auth"
    ) as e:
        push(run, tmp_path / "out")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("call", ["create_repo", "create_commit"])
def test_an_upload_that_fails_is_one_line_and_the_export_stays(
    hub: PlayedHub, run: Path, tmp_path: Path, call: str
) -> None:
    hub.errors[call] = OSError("403 Forbidden\nfor url")
    with pytest.raises(CheckpointError, match="out is written, but not uploaded to ada/mme: 403"):
        push(run, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="push 'mme' must be USER/NAME"):
        ExportConfig(model=Path("m"), out=Path("o"), push="mme")


def test_without_the_package_the_extra_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'm3video\[hf\]'"):
        push(run, tmp_path / "out")


def test_cards_of_other_formats_and_of_other_runs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: C:\\clips\\k400\ntrain: {steps: 7, lr: 0.001}\n")
    wide = Classifier(encoder(), tuple(f"class {number}" for number in range(12)))
    card = model_card(tmp_path, wide, "hf", "ada/ft", "hf")
    assert "library_name: transformers" in card
    assert 'VideoMAEForVideoClassification.from_pretrained("ada/ft")' in card
    assert "class 9, …" in card
    assert "| data | k400 |" in card
    assert "| lr | 0.001 |" in card
    assert "## Measured" not in card
    (tmp_path / "evaluation").mkdir()
    result = {"top1": 0.815, "top5": 0.95, "chance": 0.1, "per_class": [{"label": "a"}]}
    (tmp_path / "evaluation" / "evaluation.json").write_text(json.dumps(result))
    (tmp_path / "probe-strange.json").write_text('{"linear": "good"}')
    card = model_card(tmp_path, wide, "hf", "ada/ft", "hf")
    assert "| evaluation | fine-tuned, top-1 81.5 %, top-5 95.0 % | 10.0 % |" in card
    assert "strange" not in card
    card = model_card(tmp_path, encoder(), "onnx", "ada/x", "m.onnx")
    assert '(tokens,) = session.run(None, {"clip": clip})' in card
    assert '"m.onnx"' in card
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe: [")
    with pytest.raises(CheckpointError, match=r"config.yaml: cannot be read"):
        model_card(tmp_path, encoder(), "onnx", "ada/x", "m.onnx")
