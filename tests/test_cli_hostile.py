"""The verbs that read videos, over hostile files: each is named, and the rest is used."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from m3video.cli import main
from m3video.config import ClipConfig
from m3video.find.features import open_features
from m3video.model.checkpoint import save_model
from m3video.model.vit import build_encoder
from m3video.video.manifest import EXTENSIONS
from tests.video.hostile import EITHER, HOSTILE, VIDEO, write_hostile

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_hostile(folder)
    return folder


def reasons(path: Path) -> dict[str, str]:
    """File name → why it cannot be read."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


def check_named(found: dict[str, str]) -> None:
    """Every file that is no video is named with its reason, and no other of `HOSTILE`."""
    for name, (_, outcome) in HOSTILE.items():
        if Path(name).suffix not in EXTENSIONS or outcome == EITHER or name == "folder.mp4":
            continue
        assert (name in found) == (outcome != VIDEO), name
        assert outcome == VIDEO or outcome in found[name]
    assert all("\n" not in reason and reason for reason in found.values())


def test_index_names_them(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "all.csv"
    assert main(["index", str(folder), "--out", str(out), "--workers", "1"]) == 0
    found = reasons(tmp_path / "all.unreadable.csv")
    check_named(found)
    said = capsys.readouterr().err
    assert said.count("unreadable ") == len(found)
    assert "Traceback" not in said
    listed = out.read_text(errors="surrogateescape")
    assert "lat\udce9.mp4" in listed
    assert '"new\nline.mp4' in listed or "new\nline.mp4" in listed


def test_pretrain_trains_on_what_is_a_video(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["--clip.frames", "4", "--clip.stride", "2", "--clip.size", "32", "48"]
    settings += ["--clip.patch", "8", "--model.size", "nano", "--model.decoder-width", "48"]
    settings += ["--train.steps", "4", "--train.batch", "4", "--train.workers", "1"]
    settings += ["--train.device", "cpu", "--train.max-unreadable", "0.9"]
    command = ["pretrain", "--recipe", "videomae-tiny", "--data", str(folder), "--out", str(run)]
    assert main([*command, *settings]) == 0
    check_named(reasons(run / "unreadable.csv"))
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").open()]
    assert all(0 < loss < 1e4 for loss in losses)


def test_embed_makes_rows_of_what_is_a_video(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(build_encoder(CLIP, "nano"), tmp_path / "model", CLIP)
    out = tmp_path / "features.parquet"
    command = ["embed", str(folder), "--model", str(tmp_path / "model"), "--out", str(out)]
    assert main([*command, "--workers", "1", "--batch", "4", "--device", "cpu"]) == 0
    found = reasons(tmp_path / "features.unreadable.csv")
    assert found.pop("lat\udce9.mp4").startswith("its name or label is not UTF-8")
    rows = {Path(path).name for path in open_features(out).paths}
    videos = {name for name, (_, outcome) in HOSTILE.items() if outcome == VIDEO}
    assert videos - {"lat\udce9.mp4"} <= rows
    assert not rows & found.keys()
    refused = {name for name, (_, outcome) in HOSTILE.items() if outcome not in (VIDEO, EITHER)}
    listed = {name for name in refused if Path(name).suffix in EXTENSIONS} - {"folder.mp4"}
    assert listed <= found.keys()
