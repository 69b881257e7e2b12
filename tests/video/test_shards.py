"""Shards: what is packed is what is read, from a disk or a URL, and nothing gets out of a tar."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from m3video.cli import main
from m3video.config import AugmentConfig, ClipConfig
from m3video.errors import RunFailedError, UnreachableError, VideoError
from m3video.patience import outage
from m3video.video import pack as module
from m3video.video import reader, shards
from m3video.video.index import index
from m3video.video.loader import Clips, VideoClips, make_loader
from m3video.video.manifest import load_manifest
from m3video.video.pack import pack, parse_size
from m3video.video.reader import VideoReader
from m3video.video.sampling import plan_clip
from m3video.video.scan import scan_videos
from m3video.video.shards import Member, is_remote, list_shard, member_of, read_video, url
from m3video.whole import written_whole
from tests.conftest import write_video
from tests.video.served import Parts, serve

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders of three videos each, and one file that is no video."""
    folder = tmp_path_factory.mktemp("packed") / "videos"
    for label in ("left", "right"):
        for number in range(3):
            write_video(folder / label / f"{number}.mp4", frames=20 + number)
    (folder / "right" / "broken.mp4").write_bytes(b"this is not a video")
    return folder


@pytest.fixture(scope="session")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its videos in three shards."""
    out = tmp_path_factory.mktemp("shards") / "shards"
    pack(folder, out, shard_videos=2, labels_from_folders=True, workers=0)
    return out


def clips(source: str | Path, steps: range, workers: int = 0) -> list[Clips]:
    """Batches of these training steps."""
    videos = VideoClips(
        load_manifest(source), clip=CLIP, plan=plan_clip(CLIP, 0), augment=AugmentConfig()
    )
    loader = make_loader(
        videos, batch=2, seed=5, first_step=steps.start, last_step=steps.stop, workers=workers
    )
    return list(loader)


def assert_same(found: list[Clips], wanted: list[Clips]) -> None:
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.index, other.index)
        assert one.unreadable == other.unreadable == []


# -- packing


def test_webdataset_reads_what_was_packed(folder: Path, packed: Path) -> None:
    names = sorted(str(path) for path in packed.glob("*.tar"))
    assert [Path(name).name for name in names] == ["000000.tar", "000001.tar", "000002.tar"]
    samples = list(webdataset.WebDataset(names, shardshuffle=False))
    assert [json.loads(sample["json"]) for sample in samples] == [
        {"path": f"{label}/{number}.mp4", "label": label}
        for label in ("left", "right")
        for number in range(3)
    ]
    assert [sample["__key__"] for sample in samples][:2] == ["000000000-left_0", "000000001-left_1"]
    for sample in samples:
        name = json.loads(sample["json"])["path"]
        assert sample["mp4"] == (folder / name).read_bytes()


def test_the_index_is_a_manifest(folder: Path, packed: Path) -> None:
    manifest = load_manifest(packed)
    source = load_manifest(folder, labels_from_folders=True)
    for video, old in zip(manifest.videos, source.videos, strict=True):
        member = member_of(video.path)
        assert member is not None
        assert member.shard.parent == packed
        with member.shard.open("rb") as file:  # by hand: where it says
            file.seek(member.offset)
            assert file.read(member.size) == old.path.read_bytes()
        assert (video.frames, video.label, video.fps) == (old.frames, old.label, old.fps)
        with VideoReader(video.path) as one, VideoReader(old.path) as other:
            np.testing.assert_array_equal(one.frames([19, 3]), other.frames([19, 3]))
    with (packed / "index.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["path"].startswith("000000.tar::512+")
    beside = (packed / "index.unreadable.csv").read_text()
    assert "broken.mp4,Invalid data" in beside


def test_shards_are_filled_by_bytes(folder: Path, tmp_path: Path) -> None:
    sizes = [video.path.stat().st_size for video in load_manifest(folder).videos]
    limit = sizes[0] + sizes[1]
    pack(folder, tmp_path / "s", shard_size=str(limit), workers=0)
    counts: dict[str, list[int]] = {}
    for video in load_manifest(tmp_path / "s").videos:
        member = member_of(video.path)
        assert member is not None
        counts.setdefault(member.shard.name, []).append(member.size)
    assert [size for shard in counts.values() for size in shard] == sizes
    assert all(sum(shard) <= limit for shard in counts.values())
    assert len(counts["000000.tar"]) == 2
    assert [parse_size(text) for text in ("1GB", "1.5 mb", "700")] == [10**9, 1_500_000, 700]


def test_packing_goes_on_and_in_processes_is_the_same(
    folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "again"
    options = {"shard_videos": 2, "labels_from_folders": True}
    write, made = module._add, []

    def until_the_third(tar: tarfile.TarFile, video: module._Packed) -> None:
        if video.number == 3:  # the second of the second shard
            raise KeyboardInterrupt
        write(tar, video)

    monkeypatch.setattr(module, "_add", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        pack(folder, out, workers=0, **options)
    assert sorted(path.name for path in out.iterdir()) == ["000000.tar", "pack.json"]
    monkeypatch.setattr(
        module, "_add", lambda tar, video: (made.append(video.number), write(tar, video))
    )
    pack(folder, out, workers=0, **options)
    assert made == [2, 3, 4, 5]
    monkeypatch.undo()
    pack(folder, tmp_path / "processes", workers=2, **options)
    for other in (out, tmp_path / "processes"):
        for path in [*packed.glob("*.tar"), packed / "index.csv"]:
            assert (other / path.name).read_bytes() == path.read_bytes()


def test_a_file_that_is_gone_is_named(folder: Path, tmp_path: Path) -> None:
    index(folder, tmp_path / "all.csv", workers=0)
    text = (tmp_path / "all.csv").read_text()
    (tmp_path / "all.csv").write_text(text.replace("left/1.mp4", "left/gone.mp4"))
    manifest = pack(tmp_path / "all.csv", tmp_path / "s", shard_videos=2, workers=0)
    assert len(manifest.videos) == 5
    assert [(bad.path.name, bad.reason) for bad in manifest.unreadable] == [
        ("gone.mp4", "No such file or directory")
    ]
    assert len(load_manifest(tmp_path / "s").videos) == 5


def test_shards_are_packed_again(packed: Path, tmp_path: Path) -> None:
    pack(packed, tmp_path / "one", workers=0)
    old, new = load_manifest(packed).videos, load_manifest(tmp_path / "one").videos
    assert [read_video(video.path) for video in new] == [read_video(video.path) for video in old]
    assert [video.label for video in new] == ["left"] * 3 + ["right"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--shard-size", "big"], "shard size 'big': use bytes, or a number with KB, MB or GB"),
        (["--shard-size", "0"], "shard size '0'"),
        (["--shard-videos", "0"], "shard videos 0: use 1 or more"),
        (["--workers", "-1"], "workers -1: use 0"),
        (["--engine", "spark"], "engine 'spark': use processes, ray"),
        (["--engine", "ray:"], "engine 'ray:': use processes, ray"),
    ],
)
def test_bad_options_are_one_line_and_exit_2(
    options: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pack", str(folder), "--out", str(tmp_path / "s"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_videos_of_any_ending_are_packed(folder: Path, tmp_path: Path) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    for name in ("a", "b.bin", "c.json", "d.MKV"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "all.csv").write_text("path\na\nb.bin\nc.json\nd.MKV\n")
    manifest = pack(tmp_path / "all.csv", tmp_path / "s", workers=0)
    assert manifest.unreadable == ()
    assert [read_video(video.path) for video in manifest.videos] == [data] * 4
    endings = [video.path.suffix for video in index(tmp_path / "s", tmp_path / "i.csv").videos]
    assert endings == [".mp4", ".mp4", ".mp4", ".mkv"]


def test_two_writers_of_a_shard_do_not_meet(tmp_path: Path) -> None:
    place = tmp_path / "0.tar"
    with written_whole(place, shared=True) as one:
        one.write_bytes(b"whole")
        with written_whole(place, shared=True) as other:
            assert other != one
            other.write_bytes(b"whole")
        assert place.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_killed_process_left_of_a_shard_is_removed(folder: Path, tmp_path: Path) -> None:
    pack(folder / "left", tmp_path / "s", workers=0)
    (tmp_path / "s" / ".000000.tar.7-c0ffee.partial").write_bytes(b"half")
    pack(folder / "left", tmp_path / "s", workers=0)
    assert list((tmp_path / "s").glob(".*")) == []


def test_other_folders_are_left_alone(
    folder: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["pack", str(folder), "--out", str(tmp_path)]) == 2
    assert "not empty (notes.txt)" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in packed.iterdir()}
    assert main(["pack", str(folder), "--out", str(packed), "--workers", "0"]) == 2
    assert "holds shards of other videos, or of another --shard-size" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in packed.iterdir()} == before


# -- training


@pytest.mark.parametrize("workers", [0, 2])
def test_training_reads_shards_as_it_reads_the_folder(
    folder: Path, packed: Path, workers: int
) -> None:
    wanted = clips(folder, range(7))
    assert_same(clips(packed, range(7), workers), wanted)
    for epoch in range(2):  # three batches of two: all six videos, once each
        indices = torch.cat([batch.index for batch in wanted[3 * epoch : 3 * epoch + 3]])
        assert sorted(indices.tolist()) == list(range(6))
    # From the middle of the second epoch on, the same batches.
    assert_same(clips(packed, range(4, 7), workers), wanted[4:])


def test_a_broken_shard_costs_its_videos_only(packed: Path, tmp_path: Path) -> None:
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    shard = tmp_path / "000001.tar"
    shard.write_bytes(shard.read_bytes()[:9000])
    (tmp_path / "000002.tar").write_bytes((packed / "000000.tar").read_bytes()[512:])
    reasons = []
    for video in load_manifest(tmp_path).videos:
        try:
            VideoReader(video.path).close()
        except VideoError as error:
            reasons.append(str(error))
    assert len(reasons) == 3
    assert all(reason.endswith("index it again") for reason in reasons)
    (tmp_path / "000001.tar").unlink()
    with pytest.raises(VideoError, match="No such file"):
        VideoReader(load_manifest(tmp_path).videos[2].path)


# -- tars of others


def write_tar(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_without_an_index(folder: Path, tmp_path: Path, format: int) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    deep = "d" * 60 + "/" + "e" * 60  # in two headers, where a format has no room for it
    members = {
        "a/0.mp4": data,
        "a/0.cls": b"3\n",
        f"{deep}/1.rgb.mp4": data,
        f"{deep}/1.json": b'{"label": 12, "split": "val", "caption": "a square"}',
        "2.json": b"[" * 100_000,
        "2.MP4": data,
        "2.txt": b"a square",
    }
    shard = write_tar(tmp_path / "x.tar", members, format)
    for source in (shard, tmp_path):
        videos = load_manifest(source, labels_from_folders=source == tmp_path).videos
        assert [video.label for video in videos] == ["3", "12", None]
        assert [video.extra for video in videos] == [{}, {"split": "val"}, {}]
        assert {video.frames for video in videos} == {20}
        assert [read_video(video.path) for video in videos] == [data] * 3
    index(tmp_path, tmp_path / "index.csv", workers=0)
    for video, old in zip(load_manifest(tmp_path).videos, load_manifest(shard).videos, strict=True):
        assert (video.path, video.label) == (old.path, old.label)
        assert video.extra["split"] == old.extra.get("split", "")


def test_webdatasets_own_tars(folder: Path, tmp_path: Path) -> None:
    pattern = str(tmp_path / "w-%02d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        for number in range(3):
            data = (folder / "left" / f"{number}.mp4").read_bytes()
            writer.write({"__key__": f"{number:04}", "mp4": data, "cls": number})
    manifest = load_manifest(tmp_path)
    assert [(video.frames, video.label) for video in manifest.videos] == [
        (20, "0"),
        (21, "1"),
        (22, "2"),
    ]


def test_folders_in_a_tar_give_labels(folder: Path, tmp_path: Path) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    shard = write_tar(tmp_path / "x.tar", {"jump/a.mp4": data, "./run/b.mp4": data, "c.mp4": data})
    videos = load_manifest(shard, labels_from_folders=True).videos
    assert [video.label for video in videos] == ["jump", "run", None]


def test_names_never_lead_out_of_a_tar(folder: Path, tmp_path: Path) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    outside = tmp_path / "deep" / "outside.mp4"
    inside = tmp_path / "deep" / "in"
    inside.mkdir(parents=True)
    members = {"../outside.mp4": data, f"{tmp_path}/absolute.mp4": data, "a/../../../b.mp4": data}
    shard = write_tar(inside / "x.tar", members)
    with tarfile.open(shard, "a") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo(f"link{kind!r}.mp4")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    videos = load_manifest(shard).videos
    assert len(videos) == 3
    before = sorted(path for path in tmp_path.rglob("*"))
    pack(shard, inside / "packed", workers=0)
    index(shard, inside / "small.csv", workers=0, reencode=16)
    new = {path for path in tmp_path.rglob("*") if path not in before}
    assert not outside.exists()
    assert all(path.is_relative_to(inside) for path in new)
    assert sum(path.suffix == ".mp4" for path in new) == 3
    with tarfile.open(inside / "packed" / "000000.tar") as tar:
        assert all("/" not in name and not name.startswith(".") for name in tar.getnames())
    assert os.path.normpath(videos[0].path) == str(videos[0].path)


def test_damaged_tars_are_named(folder: Path, tmp_path: Path) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    shard = write_tar(tmp_path / "a.tar", {"0.mp4": data, "1.mp4": data})
    shard.write_bytes(shard.read_bytes()[: 512 + len(data) + 2000])
    (tmp_path / "b.tar").write_bytes(b"no tar")
    manifest = load_manifest(tmp_path)
    assert [video.path.name.split("::")[2] for video in manifest.videos] == ["0.mp4"]
    assert {bad.path.name.split("::")[0] for bad in manifest.unreadable} == {"a.tar", "b.tar"}


def append(shard: Path, name: str, headers: dict[str, str], data: bytes = b"") -> None:
    """A member more, with extended headers of any kind."""
    with tarfile.open(shard, "a", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.pax_headers = len(data), headers
        tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "headers",
    [
        *({"size": "-1536"}, {"size": "-512"}, {"size": "-99999999"}, {"size": "9" * 40}),
        *({"GNU.sparse.size": "abc"}, {"GNU.sparse.size": "-5"}, {"GNU.sparse.map": "1,x"}),
    ],
)
def test_sizes_that_lead_astray_end_the_reading(
    headers: dict[str, str], folder: Path, tmp_path: Path
) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    shard = write_tar(tmp_path / "x.tar", {"0.mp4": data})
    append(shard, "1.mp4", headers)
    listed, reason = list_shard(shard, frozenset({".mp4"}))
    assert reason is None or reason.startswith("not a tar, or damaged: ")
    sizes = [member.size for member in map(member_of, (v.path for v in listed)) if member]
    assert sizes[0] == len(data)
    if len(listed) > 1:  # a size that no shard has: found out when it is read
        with pytest.raises(VideoError, match="index it again"):
            read_video(listed[1].path)
    else:
        assert reason is not None


@pytest.mark.parametrize("comment", ["", "c" * 3000])
def test_a_size_in_an_extended_header_is_read(folder: Path, tmp_path: Path, comment: str) -> None:
    """As POSIX writes what is 8 GiB or more: nothing in the header itself."""
    data = (folder / "left" / "0.mp4").read_bytes()
    shard = write_tar(tmp_path / "x.tar", {"0.mp4": data})
    info = tarfile.TarInfo("1.mp4")
    info.pax_headers = {"comment": comment, "size": str(len(data))}
    headers = info.tobuf(tarfile.PAX_FORMAT)
    whole = shard.read_bytes()[: 1024 + len(data) // 512 * 512]
    shard.write_bytes(whole + headers + data + bytes(2048 - len(data) % 512))
    videos = load_manifest(shard).videos
    assert [read_video(video.path) for video in videos] == [data, data]
    member = member_of(videos[1].path)
    assert member is not None
    for other in (member.size - 1, member.size + 512):
        with pytest.raises(VideoError, match="index it again"):
            read_video(Member(shard, member.offset, other, "1.mp4").path)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_video_of_more_than_8_gib_is_known_by_its_headers(tmp_path: Path, format: int) -> None:
    info = tarfile.TarInfo("large.mp4")
    info.size = 9 * 2**30
    headers = info.tobuf(format)
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(headers)
        file.truncate(len(headers) + info.size + 1024)  # takes no room on the disk
    ((video,), reason) = list_shard(tmp_path / "x.tar", frozenset({".mp4"}))
    assert reason is None
    member = member_of(video.path)
    assert member is not None
    assert member.size == info.size
    assert shards._says_size(member, headers[-512:])


def test_packed_headers_have_room_for_more_than_8_gib(packed: Path) -> None:
    assert (packed / "000000.tar").read_bytes()[257:265] == b"ustar  \0"  # GNU's


def test_pipes_are_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = tmp_path / "x.tar"
    os.mkfifo(pipe)
    with pytest.raises(VideoError, match="is a pipe"):
        read_video(Member(pipe, 512, 9, "a.mp4").path)
    for source in (tmp_path, pipe):
        out = str(tmp_path / "m.csv")
        assert main(["index", str(source), "--out", out, "--workers", "0"]) == 2
        assert "x.tar: not a tar, or damaged: is a pipe" in capsys.readouterr().err


def test_labels_that_no_manifest_could_hold_are_left_out(folder: Path, tmp_path: Path) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    members = {
        **({"0.mp4": data, "0.cls": b"a\0b", "1.mp4": data, "1.json": b'{"label": "a\\u0000b"}'}),
        **({"2.mp4": data, "2.json": b'{"label": "\\ud800", "split": "val"}'}),
        **({"3.mp4": data, "3.json": b'{"label": "a\\rb\\nc"}'}),
    }
    shard = write_tar(tmp_path / "x.tar", members)
    append(shard, "4.mp4", {"path": "4\0.mp4"}, data)
    first = index(shard, tmp_path / "m.csv", workers=0)
    assert [video.label for video in first.videos] == [None, None, None, "a\rb\nc", None]
    assert load_manifest(tmp_path / "m.csv").labels == first.labels
    assert load_manifest(tmp_path / "m.csv").videos[2].extra == {"split": "val"}


def test_an_index_is_renewed_from_the_tars(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (folder / "left" / "0.mp4").read_bytes()
    write_tar(tmp_path / "x.tar", {"0.mp4": data, "0.cls": b"3"})
    out = tmp_path / "index.csv"
    index(tmp_path, out, workers=0)
    write_tar(tmp_path / "x.tar", {"0.txt": b"moved", "0.mp4": data, "1.mp4": data, "1.cls": b"4"})
    write_tar(tmp_path / "y.tar", {"2.mp4": data})
    capsys.readouterr()
    assert len(load_manifest(tmp_path).videos) == 1  # as the index says
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "does not name y.tar; to have them read: m3video index" in told
    assert [video.label for video in index(tmp_path, out, workers=0).videos] == [None, "4", None]
    capsys.readouterr()
    videos = load_manifest(tmp_path).videos
    assert [read_video(video.path) for video in videos] == [data] * 3
    assert capsys.readouterr().err == ""


def test_an_index_of_something_else_hides_no_videos(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((folder / "left" / "0.mp4").read_bytes())
    write_tar(tmp_path / "old.tar", {"notes.txt": b"of last year"})
    (tmp_path / "index.csv").write_text("title,year\nnotes,2001\n")
    assert [video.path.name for video in load_manifest(tmp_path).videos] == ["a.mp4"]


def test_an_index_that_lies_costs_no_memory(packed: Path) -> None:
    shard = packed / "000000.tar"
    for offset, size in ((512, 10**14), (10**14, 5), (0, 5), (512, 77), (700, 77)):
        with pytest.raises(VideoError, match=r"index it again|none of a tar"):
            read_video(Member(shard, offset, size, "x.mp4").path)


# -- over the network


def test_training_over_http_is_training_from_the_disk(packed: Path) -> None:
    pytest.importorskip("aiohttp")
    with serve(packed.parent) as (address, asked):
        source = f"{address}/shards"
        found = clips(source, range(4), workers=1)
        assert_same(found, clips(packed, range(4)))
        assert_same(clips(f"{source}/index.csv", range(3, 4)), found[3:])
        tars = [part for path, part in asked if path.endswith(".tar")]
        assert len(tars) >= 8
        assert None not in tars  # never a whole shard


def test_a_manifest_keeps_urls(packed: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with serve(packed) as (address, _):
        first = index(address, tmp_path / "m.csv", workers=0)
        assert f"\n{address}/000000.tar::512+" in (tmp_path / "m.csv").read_text()
        assert load_manifest(tmp_path / "m.csv") == first
        path = first.videos[0].path
        assert is_remote(path)
        assert url(path).startswith(f"{address}/000000.tar::")


def test_a_server_that_sends_whole_files_is_refused(
    packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiohttp")
    with serve(packed, parts=False) as (address, _):
        out = str(tmp_path / "m.csv")
        assert main(["index", address, "--out", out, "--workers", "0"]) == 2
        assert "does not answer requests for a part of a file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with serve(tmp_path / "empty") as (address, _):
        assert main(["index", address, "--out", out, "--workers", "0"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{address}/index.csv" in error


def test_a_request_that_fails_is_made_again(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Flaky:
        calls = 0

        def cat_file(self, address: str, start: int | None, end: int | None) -> bytes:
            self.calls += 1
            if self.calls < 3:
                raise TimeoutError
            return (packed / Path(address).name).read_bytes()[start:end]

    flaky, waits = Flaky(), list[float]()
    monkeypatch.setattr(shards, "_filesystem", lambda path: flaky)
    monkeypatch.setattr(shards.time, "sleep", waits.append)
    member = member_of(load_manifest(packed).videos[0].path)
    assert member is not None
    remote = Member(Path("http://host/000000.tar"), member.offset, member.size, member.name)
    assert read_video(remote.path) == read_video(member.path)
    assert waits == [1, 2]
    flaky.calls = -99
    monkeypatch.setattr(shards, "_WAITS", (8.0, 30.0))
    with outage(7), pytest.raises(UnreachableError, match=r"for 7 s now: TimeoutError; no video"):
        read_video(remote.path)
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("status", "passes"),
    [(404, False), (403, False), (416, False), (401, False), (429, True), (500, True), (503, True)],
)
def test_what_a_server_answers_is_the_videos_fault(
    status: int, passes: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(Parts, "do_GET", lambda self: self.send_error(status))
    with serve(tmp_path) as (address, _), outage(0):
        path = Member(Path(f"{address}/x.tar"), 512, 9, "a.mp4").path
        with pytest.raises(UnreachableError if passes else VideoError):
            read_video(path)
    with outage(0), pytest.raises(UnreachableError):  # nobody answers there any more
        read_video(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_outage_changes_no_batch(
    workers: int, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(shards, "_WAITS", (0.1, 0.2))
    away: list[int] = []
    with serve(packed, away=away) as (address, _):
        videos = VideoClips(
            load_manifest(address), clip=CLIP, plan=plan_clip(CLIP, 0), augment=AugmentConfig()
        )
        batches = make_loader(
            videos, batch=2, seed=5, first_step=0, last_step=6, workers=workers, stall_seconds=40
        )
        away.append(20)  # more requests than a video and the ten after it would take
        assert_same(list(batches), clips(packed, range(6)))
        assert away == []


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_server_that_stays_away_ends_the_loading_and_condemns_no_file(
    workers: int, packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(shards, "_WAITS", (0.1, 0.2))
    with serve(packed, away=(away := list[int]())) as (address, _):
        videos = VideoClips(
            load_manifest(address), clip=CLIP, plan=plan_clip(CLIP, 0), augment=AugmentConfig()
        )
        away.append(10**6)
        loader = make_loader(
            videos, batch=2, seed=5, first_step=0, last_step=6, workers=workers, stall_seconds=4
        )
        with pytest.raises(UnreachableError, match=r"tar: cannot be fetched, for 2 s") as caught:
            list(loader)
        assert "\n" not in str(caught.value)


def test_a_server_that_hangs_is_no_files_fault(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker of two waits for longer than a batch may take; a file would be refused."""
    monkeypatch.setattr(reader, "is_remote", lambda path: True)
    hangs = str(load_manifest(packed).videos[0].path)
    monkeypatch.setattr(
        reader, "read_video", lambda p: time.sleep(60) if str(p) == hangs else read_video(p)
    )
    videos = VideoClips(
        load_manifest(packed), clip=CLIP, plan=plan_clip(CLIP, 0), augment=AugmentConfig()
    )
    loader = make_loader(
        videos, batch=1, seed=5, first_step=0, last_step=6, workers=2, stall_seconds=2
    )
    with pytest.raises(RunFailedError, match="no file alone is to blame"):
        list(loader)


def test_verbs_end_in_one_line_when_the_server_is_away(
    packed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("aiohttp")
    monkeypatch.setattr(shards, "_OUTAGE_AT_FIRST", 0)
    rows = [f"http://127.0.0.1:9/x.tar::512+{size}::a.mp4" for size in (5, 6)]
    (tmp_path / "m.csv").write_text("\n".join(["path", *rows]))
    for verb in (["index"], ["pack", "--workers", "0"]):
        assert main([*verb, str(tmp_path / "m.csv"), "--out", str(tmp_path / "out.csv")]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "http://127.0.0.1:9/x.tar: cannot be fetched, for 0 s now: " in said
    with serve(packed, away=(away := list[int]())) as (address, _):
        paths = [video.path for video in load_manifest(address).videos]
        away.append(10**6)
        for workers in (0, 1):
            with outage(0), pytest.raises(UnreachableError):
                scan_videos(paths, workers=workers, decode=False, progress=False)


def test_urls_of_single_videos_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_OUTAGE_AT_FIRST", 0)
    with pytest.raises(VideoError, match="only videos in shards"):
        VideoReader("http://127.0.0.1:9/a.mp4")
    with pytest.raises(UnreachableError, match="cannot be fetched"):
        shards.check_remote([Path("http://127.0.0.1:9/x.tar::512+9::a.mp4")])


def test_training_from_s3(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    servers = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    server = servers.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="videos")
        for path in packed.iterdir():
            client.upload_file(str(path), "videos", f"sets/{path.name}")
        assert_same(clips("s3://videos/sets", range(3)), clips(packed, range(3)))
    finally:
        server.stop()


def test_a_video_that_memory_has_no_room_for_costs_itself(
    packed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = load_manifest(packed).videos[0].path

    def none(*arguments: object, **more: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(shards, "fetch", none)
    with pytest.raises(VideoError, match="needs more memory than there is"):
        read_video(path)
    with pytest.raises(MemoryError):
        shards._asked(path, 60, none)
