"""The nearest rows, against scikit-learn; and what a query may be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from m3video.cli import main
from m3video.config import SearchConfig
from m3video.errors import ConfigError
from m3video.find.features import open_features
from m3video.find.query import rows_of, split_query
from m3video.find.search import format_found, nearest, search, standard_of
from m3video.video.pack import pack
from tests.conftest import write_video
from tests.find.conftest import write_model


def test_nearest_is_that_of_scikit_learn_whatever_the_chunks() -> None:
    random = np.random.default_rng(0)
    values = random.normal(5, random.uniform(0.1, 9, 24), (700, 24)).astype(np.float32)
    chunks = [values[:1], values[1:300], values[300:]]
    standard = standard_of(chunks)
    scaled = StandardScaler().fit_transform(values)
    np.testing.assert_allclose(
        (values - standard.mean.numpy()) / standard.deviation.numpy(), scaled, atol=1e-4
    )
    oracle = NearestNeighbors(n_neighbors=12, metric="cosine", algorithm="brute").fit(scaled)
    distances, rows = oracle.kneighbors(scaled[[17]])
    cosines, found = nearest(torch.from_numpy(values[17]), chunks, standard, 12)
    assert found.tolist() == rows[0].tolist()
    np.testing.assert_allclose(cosines, 1 - distances[0], atol=1e-5)
    _, without = nearest(torch.from_numpy(values[17]), chunks, standard, 11, without=[17])
    assert without.tolist() == rows[0, 1:].tolist()


def test_a_row_finds_others_and_not_itself(clips_file: Path) -> None:
    file = open_features(clips_file)
    found = search(SearchConfig(query="5-<b>&.mp4@0.9", features=clips_file, count=500))["found"]
    own = next(
        row for row in range(len(file)) if "5-" in file.paths[row] and file.start[row] > 0.55
    )
    assert len(found) == len(file) - 1
    assert own not in {row["row"] for row in found}
    others = SearchConfig(query="5-<b>&.mp4@0.9", features=clips_file, count=500, others=True)
    assert not any("5-" in row["path"] for row in search(others)["found"])


def test_names_stay_on_their_line() -> None:
    row = {"path": "/v/a\nb\x1b[2J é.mp4", "start": 0.0, "end": 1.0, "label": "x\ty", "cosine": 0.5}
    shown = format_found({"query": "c\udcff", "rows": 1, "found": [row]})
    assert shown.splitlines()[0] == r"1 nearest of 1 rows to c\udcff"
    assert shown.splitlines()[1].endswith(r"x\ty          /v/a\nb\x1b[2J é.mp4")


def test_a_row_is_known_by_a_path_with_dots(
    clips_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = open_features(clips_file)
    known = Path(file.paths[0])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    dotted = os.path.relpath(known)
    assert dotted.startswith("..")
    assert rows_of(file, dotted) == rows_of(file, str(known)) != []


@pytest.mark.parametrize("at", ["", "@0.5"])
def test_a_copy_of_a_video_finds_the_video(clips_file: Path, tmp_path: Path, at: str) -> None:
    copy = write_video(tmp_path / "copy.mp4", frames=65, height=64)
    found = search(SearchConfig(query=f"{copy}{at}", features=clips_file, count=3))["found"]
    if at:
        assert "5-" in found[0]["path"]
        assert found[0]["start"] <= 0.5 <= found[0]["end"]
        assert found[0]["cosine"] == pytest.approx(1, abs=1e-4)
    assert len(found) == 3
    if not at:  # in a shard it is the same video
        shard = pack(copy.parent, tmp_path / "shards", workers=0).videos[0].path
        packed = search(SearchConfig(query=str(shard), features=clips_file, count=3))["found"]
        assert packed == found


def test_queries() -> None:
    assert split_query("a.mp4@2.5") == ("a.mp4", 2.5)
    assert split_query("a@b.mp4") == ("a@b.mp4", None)
    assert split_query("a.mp4@12s") == ("a.mp4", 12)
    assert split_query("@2") == ("@2", None)


def test_what_cannot_be_searched_is_said(clips_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a video file nor the path"):
        search(SearchConfig(query="no.mp4", features=clips_file))
    with pytest.raises(ConfigError, match=r"no clip of .* is there"):
        search(SearchConfig(query="5-<b>&.mp4@99", features=clips_file))
    copy = write_video(tmp_path / "copy.mp4")
    other = write_model(tmp_path / "other", seed=2)
    with pytest.raises(ConfigError, match="its weights are not those"):
        search(SearchConfig(query=str(copy), features=clips_file, model=other))
    broken = tmp_path / "f.parquet"
    broken.write_bytes(clips_file.read_bytes()[:-99])
    with pytest.raises(ConfigError, match="not a features file"):
        search(SearchConfig(query="x", features=broken))


def test_the_command_prints_json(clips_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["search", "5-<b>&.mp4", "--features", str(clips_file), "--count", "2"]
    assert main([*command, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [set(row) for row in answer["found"]] == [
        {"path", "start", "end", "label", "cosine", "row"}
    ] * 2
    assert main(command) == 0
    assert "2 nearest of" in capsys.readouterr().out
