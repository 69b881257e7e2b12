"""Videos become features: what is in them, and that nothing is lost or done twice."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import m3video.find.embed as module
import m3video.find.held as held
from m3video.cli import main
from m3video.errors import CheckpointError, ConfigError, ManifestError
from m3video.find.clips import WindowBatches
from m3video.find.embed import embed, weights_sha256
from m3video.find.features import open_features
from m3video.find.parts import Parts
from m3video.find.windows import Windows
from m3video.model.checkpoint import load_encoder, save_model
from m3video.train.features import extract_features
from m3video.video.augment import to_clip
from m3video.video.loader import VideoClips
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader, read_frames
from m3video.video.sampling import plan_clip
from tests.find.conftest import CLIP, config, write_model


def test_a_video_has_the_features_that_the_probe_reads(
    videos: Path, model: Path, tmp_path: Path
) -> None:
    done = embed(config(videos, model, tmp_path / "f.parquet", segments=2))
    file = open_features(done.out)
    manifest = load_manifest(videos)
    source = VideoClips(manifest, clip=CLIP, plan=plan_clip(CLIP, 0), augment=None, segments=2)
    wanted = extract_features(
        load_encoder(model), source, clip=CLIP, segments=2, device=torch.device("cpu")
    )
    np.testing.assert_allclose(file.vectors(), wanted.values.numpy(), rtol=1e-5, atol=1e-6)
    assert file.paths == [str(video.path) for video in manifest.videos]
    assert file.labels == ["left", "right"] * 3
    assert file.end[2] == pytest.approx(38 / 25)
    assert [Path(path).name for path, _ in done.unreadable] == ["broken.mp4"]
    assert (tmp_path / "f.unreadable.csv").read_text().startswith("path,reason\n")
    assert not (tmp_path / "f.parquet.parts").exists()
    assert pq.read_schema(done.out).field("feature").type.list_size == 128


def test_a_clip_is_what_the_encoder_sees_of_its_seconds(clips_file: Path, model: Path) -> None:
    file = open_features(clips_file)
    row = next(row for row, path in enumerate(file.paths) if "5-" in path) + 3
    encoder = load_encoder(model)
    frames = read_frames(file.paths[row])
    with torch.inference_mode():
        wanted = encoder(to_clip(frames, CLIP, start=15)).mean(1)[0]
    assert file.start[row] == pytest.approx(15 / 25)
    assert file.end[row] == pytest.approx(27 / 25)
    np.testing.assert_allclose(file.vectors()[row], wanted.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_formats_hold_the_same(
    videos: Path, model: Path, tmp_path: Path, clips_file: Path, dtype: str
) -> None:
    known = open_features(clips_file)
    for ending in ("npz", "zarr"):
        out = tmp_path / f"f.{ending}"
        embed(config(videos, model, out, per="clip", hop=0.2, dtype=dtype))
        file = open_features(out)
        np.testing.assert_array_equal(file.vectors(), known.vectors().astype(dtype))
        assert next(file.chunks()).dtype == dtype
        assert (file.paths, file.labels) == (known.paths, known.labels)
        np.testing.assert_array_equal(file.start, known.start)
        assert {**file.metadata, "dtype": "float32"} == known.metadata


@pytest.mark.parametrize("ending", ["npz", "zarr"])
def test_tokens_have_the_pooled_feature_as_their_mean(
    videos: Path, model: Path, tmp_path: Path, clips_file: Path, ending: str
) -> None:
    out = tmp_path / f"t.{ending}"
    done = embed(config(videos, model, out, per="clip", hop=0.2, tokens=True))
    assert done.shape == (2 * 4 * 6, 128)
    tokens = np.concatenate(list(open_features(out).chunks()))
    np.testing.assert_allclose(tokens.mean(1), open_features(clips_file).vectors(), atol=1e-5)


@pytest.mark.parametrize("ending", ["parquet", "npz", "zarr"])
def test_a_killed_run_goes_on_and_ends_in_the_same_file(
    videos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(held, "PART_SECONDS", 0.0)
    settings = config(videos, model, tmp_path / f"f.{ending}", per="clip")
    whole = tmp_path / "whole" / f"f.{ending}"
    embed(settings.model_copy(update={"out": whole}))
    process = os.fork()
    if process == 0:
        calls = 0
        write = Parts.write

        def killed(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            write(*arguments)

        monkeypatch.setattr(Parts, "write", killed)
        embed(settings)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    assert not settings.out.exists()
    encoded = []
    encode = held.encode

    def counted(*arguments: Any, **settings: Any) -> Any:
        encoded.append(len(arguments[1]))
        return encode(*arguments, **settings)

    monkeypatch.setattr(held, "encode", counted)
    embed(settings)
    assert sum(encoded) == len(open_features(whole)) - 2 * 4
    files = [whole] if whole.is_file() else [path for path in whole.rglob("*") if path.is_file()]
    for path in files:
        other = settings.out / path.relative_to(whole) if whole.is_dir() else settings.out
        assert path.read_bytes() == other.read_bytes()


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(
    videos: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = config(videos, model, tmp_path / "f.parquet", per="clip")
    embed(settings.model_copy(update={"out": tmp_path / "whole.parquet"}))
    encode = held.encode

    def interrupted(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return encode(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(held, "encode", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(settings)
    total = len(open_features(tmp_path / "whole.parquet"))
    assert f"of {total}: the same command goes on" in capsys.readouterr().err
    assert not settings.out.exists()
    embed(settings)
    assert "going on at" in capsys.readouterr().err
    assert settings.out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_frames_that_clips_share_are_decoded_once(
    videos: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(videos)
    windows = Windows(
        manifest.videos[5:6], CLIP, config(videos, model, Path("f.npz"), per="clip", hop=0.12)
    )
    read: list[int] = []
    images = VideoReader.images

    def noted(self: VideoReader, indices: list[int]) -> Any:
        read.extend(indices)
        return images(self, indices)

    monkeypatch.setattr(VideoReader, "images", noted)
    clips = WindowBatches(windows, first=0, batch=100).clip(0, 0, torch.Generator())
    assert len(clips.frames) == len(windows) > 10
    assert len(read) == len(set(read)) < 4 * len(windows) / 2


def test_a_video_that_is_shorter_than_listed_is_named(
    videos: Path, model: Path, tmp_path: Path
) -> None:
    source = load_manifest(videos).videos[5].path
    listed = tmp_path / "list.csv"
    listed.write_text(
        f"path,frames,fps,width,height,duration\n{source},80,25,96,72,3.2\n"
        f"{source.parent / '0-<b>&.mp4'},20,25,96,72,0.8\n"
    )
    done = embed(config(listed, model, tmp_path / "f.npz", per="clip"))
    assert [Path(path).name[0] for path in open_features(done.out).paths] == ["0"] * 2
    assert "has 65 frames, and the list says 80" in done.unreadable[0][1]


def test_other_settings_or_another_model_are_refused(
    videos: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(videos, model, tmp_path / "f.npz")
    finished = embed(settings)
    before = settings.out.stat().st_mtime_ns
    assert embed(settings) == replace(finished, was_there=True)
    assert settings.out.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"another segments \(2, now 3\)"):
        embed(settings.model_copy(update={"segments": 3}))
    other = write_model(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match=f"another model .*{weights_sha256(model)}"):
        embed(settings.model_copy(update={"model": other}))
    monkeypatch.setattr(module, "write_features", lambda *a: 1 / 0)
    begun = settings.model_copy(update={"out": tmp_path / "g.npz"})
    with pytest.raises(ZeroDivisionError):
        embed(begun)
    with pytest.raises(ConfigError, match="another model"):
        embed(begun.model_copy(update={"model": other}))
    (tmp_path / "h.npz.parts").mkdir()
    (tmp_path / "h.npz.parts" / "thesis.txt").touch()
    with pytest.raises(ConfigError, match=r"holds thesis\.txt"):
        embed(settings.model_copy(update={"out": tmp_path / "h.npz"}))


def test_a_model_that_gives_no_numbers_is_refused(
    videos: Path, model: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(model)
    torch.nn.init.constant_(encoder.patch_embed.bias, torch.nan)
    save_model(encoder, tmp_path / "nan", CLIP)
    with pytest.raises(CheckpointError, match="not finite"):
        embed(config(videos, tmp_path / "nan", tmp_path / "f.npz"))


def test_no_readable_video_leaves_nothing(model: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.csv"
    listed.write_text("path,frames,fps,width,height,duration\nno.mp4,80,25,96,72,3.2\n")
    with pytest.raises(ManifestError, match=r"none of its 1 videos can be read.*no\.mp4"):
        embed(config(listed, model, tmp_path / "f.npz"))
    assert [path.name for path in tmp_path.iterdir()] == ["list.csv"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--out", "f.csv"], "must end in .parquet, .npz or .zarr"),
        (["--out", "f.npz", "--tokens"], "use --per clip"),
        (["--out", "f.parquet", "--tokens", "--per", "clip"], "use .npz or .zarr"),
        (["--out", "f.npz", "--hop", "1"], "hop 1 is for --per clip"),
        (["--out", "f.npz", "--segments", "99"], "batch is 16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", "videos", "--model", "m", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_command_counts_and_names_the_unreadable(
    videos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "f.parquet"
    command = ["embed", str(videos), "--model", str(model), "--out", str(out), "--workers", "1"]
    assert main([*command, "--labels-from-folders"]) == 0
    said = capsys.readouterr().out
    assert "6 rows of 128 float32" in said
    assert f"1 videos unreadable: {tmp_path / 'f.unreadable.csv'}" in said
    metadata = json.loads(pq.read_schema(out).metadata[b"m3video"])
    assert metadata["weights_sha256"] == weights_sha256(model)
    assert metadata["clip"]["stride"] == 3
