"""Hostile files: each is named with its reason, none hangs, fills the memory or reaches further."""

from __future__ import annotations

import ctypes
import io
import multiprocessing
import os
import re
import resource
import signal
import socket
import struct
import sys
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import av
import pytest

from m3video.errors import ManifestError, VideoError
from m3video.patience import limited, progress, unlimited
from m3video.video import scan
from m3video.video.datasets.files import find_files
from m3video.video.index import index
from m3video.video.manifest import load_manifest
from m3video.video.reader import VideoReader
from m3video.video.scan import Unreadable, Video, scan_video, scan_videos
from m3video.video.shards import read_video
from m3video.video.walk import absolute
from tests.video.hostile import (
    EITHER,
    PLAYLISTS,
    VIDEO,
    flipped_files,
    valid,
    valid_bytes,
    write_hostile,
    write_misleading,
)
from tests.video.made_clips import MADE

CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"
IN_OPEN = 0x20


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    return write_hostile(tmp_path_factory.mktemp("hostile"))


def test_every_hostile_file_is_a_video_or_named_with_its_reason(corpus: dict[Path, str]) -> None:
    """In a process that scans: one that hangs or crashes would be a reason of its own."""
    found = scan_videos(list(corpus), workers=1, decode=True, progress=False)
    for (path, outcome), entry in zip(corpus.items(), found, strict=True):
        assert entry.path == path
        if isinstance(entry, Video):
            assert outcome in (VIDEO, EITHER), path
            assert min(entry.frames, entry.height, entry.width, entry.fps, entry.duration) > 0
        else:
            assert outcome != VIDEO, (path, entry.reason)
            assert outcome in entry.reason, (path, entry.reason)
            assert "the decoder" not in entry.reason
            assert "\n" not in entry.reason


def _peak(sender: Connection, paths: list[Path]) -> None:
    """How many files are refused, and by how much this fresh process grows at most, in KiB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = sum(isinstance(scan_video(path, decode=True), Unreadable) for path in paths)
    sender.send((refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def test_lies_about_size_cost_no_memory(corpus: dict[Path, str]) -> None:
    names = ("huge.avi", "huge.webm", "huge.mkv", "huge.gif", "samples.mp4")
    paths = [path for path in corpus if path.name in names]
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=_peak, args=(sender, paths))
    process.start()
    refused, grown = receiver.recv()
    process.join()
    assert refused == len(names)
    assert grown < 50 * 2**10  # KiB; one frame of 16000×16000 would be 244 MiB in grey


def test_index_survives_them_all(corpus: dict[Path, str], tmp_path: Path) -> None:
    folder = next(iter(corpus)).parent
    (folder / "up").symlink_to(folder)
    listed = [path for path in corpus if path.suffix in {".mp4", ".avi", ".mkv", ".webm", ".mov"}]
    listed = [path for path in listed if not path.is_dir()]
    listed += [path for path in corpus if path.suffix in {".gif", ".mpg"}]
    found = index(folder, tmp_path / "all.csv", workers=1, decode=False)
    named = [video.path for video in found.videos] + [bad.path for bad in found.unreadable]
    assert sorted(named) == sorted(listed)
    again = load_manifest(tmp_path / "all.csv")
    assert again.videos == found.videos


@contextmanager
def opened_files(folder: Path) -> Iterator[set[str]]:
    """Names of the files of a folder that anyone opens meanwhile, as Linux tells."""
    if not sys.platform.startswith("linux"):
        pytest.skip("inotify is Linux's")
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    assert libc.inotify_add_watch(handle, os.fsencode(folder), IN_OPEN) > 0
    names: set[str] = set()
    try:
        yield names
        with suppress(BlockingIOError):
            while data := os.read(handle, 2**16):
                while data:
                    length = struct.unpack_from("iIII", data)[3]
                    names.add(os.fsdecode(data[16 : 16 + length].rstrip(b"\0")))
                    data = data[16 + length :]
    finally:
        os.close(handle)


@contextmanager
def counting_server() -> Iterator[tuple[str, list[str]]]:
    """An address of this machine, and who connects to it."""
    met: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    guest, _ = server.accept()
                    met.append("guest")
                    guest.close()

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/other.ts", met
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_reaches_no_other_file_and_no_address(name: str, tmp_path: Path) -> None:
    valid(tmp_path / "other.ts")
    path = tmp_path / name
    with counting_server() as (address, met):
        for target in ("other.ts", str(tmp_path / "other.ts"), address, f"tcp{address[4:]}"):
            path.write_text(PLAYLISTS[name][0].format(target))
            with opened_files(tmp_path) as opened, pytest.raises(VideoError):
                VideoReader(path)
            assert opened == {name}
    assert met == []


def test_a_playlist_would_reach_both(tmp_path: Path) -> None:
    """FFmpeg as it is opens the other file and the address, and the test above would see it."""
    valid(tmp_path / "other.ts")
    path = tmp_path / "hls.m3u8"
    text = PLAYLISTS["hls.m3u8"][0]
    with counting_server() as (address, met):
        path.write_text(text.format("other.ts"))
        with opened_files(tmp_path) as opened, av.open(str(path)):
            pass
        path.write_text(text.format(address))
        with pytest.raises(av.FFmpegError):
            av.open(str(path), options={"protocol_whitelist": "file,crypto,data,http,tcp"})
    assert opened == {"hls.m3u8", "other.ts"}
    assert met


@pytest.mark.parametrize("source", [".", "../h", "absolute"])
def test_names_of_files_reach_no_address_and_no_shard(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "h").mkdir()
    monkeypatch.chdir(tmp_path / "h")
    with counting_server() as (address, met):
        made = write_misleading(Path(), address.split("/")[2])
        out = tmp_path / "h" / "m.csv"
        found = index(tmp_path / "h" if source == "absolute" else source, out, workers=0)
        again = load_manifest("m.csv")
        for video in again.videos:
            VideoReader(video.path).close()
    assert met == []
    wanted = {f"{tmp_path}/h/{name}" for name, outcome in made.items() if outcome == VIDEO}
    for manifest in (found, again):
        assert {absolute(video.path) for video in manifest.videos} == wanted
    assert {entry.path.name for entry in found.unreadable} == {
        Path(name).name for name, outcome in made.items() if outcome != VIDEO
    }
    assert all("reads as a place in a shard" in entry.reason for entry in found.unreadable)


def test_a_release_with_such_names_reaches_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with counting_server() as (address, met):
        made = write_misleading(Path(), address.split("/")[2])
        files = find_files(Path())
        for paths in files.by_name.values():
            for path in paths:
                VideoReader(path).close()
    assert met == []
    assert len(files.by_name["a"]) + len(files.closed) == len(made)


def test_shards_with_such_names_reach_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("http:", "x.tar::1+2::y"):
        Path(name).mkdir()
        data = valid_bytes(tmp_path, "mp4")
        with tarfile.open(Path(name, "localhost.tar"), "w") as tar:
            member = tarfile.TarInfo("a.mp4")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    for source in ("http:", "http:/localhost.tar"):
        (video,) = load_manifest(source).videos
        assert read_video(video.path) == data
    with pytest.raises(ManifestError, match="reads as a place in a shard"):
        load_manifest("x.tar::1+2::y")


def _hang(path: Path, decode: bool) -> Video | Unreadable:
    if path.name == "b.mp4":
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # a minute later
        re.fullmatch(r"(a+)+b", "a" * 64)  # in C, as a decoder that loops
    return Video(path, 1, 1, 1, 1, 1)


def test_a_file_that_hangs_the_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "scan_video", _hang)
    paths = [Path(f"{name}.mp4") for name in "abc"]
    found = scan.scan_videos(paths, workers=1, decode=True, progress=False)
    assert [isinstance(entry, Video) for entry in found] == [True, False, True]
    assert found[1] == Unreadable(paths[1], "the decoder gave nothing for 60 seconds")


def test_what_waits_for_a_server_has_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[float] = []
    monkeypatch.setattr("m3video.patience.signal.setitimer", lambda _, s: timers.append(s))
    limits: list[float] = []

    def fetch(path: Path) -> bytes:
        progress()  # sets no timer
        limits.append(timers[-1])
        return b""

    monkeypatch.setattr("m3video.video.reader.read_video", fetch)
    with limited(7):
        for name in ("http://host/x.tar::512+9::a.mp4", "/x.tar::512+9::a.mp4"):
            with pytest.raises(VideoError):
                VideoReader(name)
        with unlimited():
            assert timers[-1] == 0
        assert timers[-1] == 7
    assert limits == [0, 7]
    assert timers[-1] == 0


def test_every_packet_renews_the_patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    renewed: list[float] = []
    monkeypatch.setattr("m3video.patience.signal.setitimer", lambda _, s: renewed.append(s))
    path = valid(tmp_path / "a.mp4", frames=12)
    with limited(scan.PATIENCE):
        assert isinstance(scan_video(path, True), Video)
    assert renewed.count(scan.PATIENCE) > 2 * 12  # scanned and verified
    assert renewed[-1] == 0


def flipped_once(tmp_path: Path, source: bytes, ending: str, flips: int, seed: int) -> None:
    files = list(flipped_files(tmp_path, source, ending, flips=flips, each=1, seed=seed))
    found = scan_videos(files, workers=1, decode=True, progress=False)
    assert len(found) == flips
    for entry in found:
        if isinstance(entry, Unreadable):
            assert "\n" not in entry.reason
            assert "the decoder" not in entry.reason, entry


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("b_frames.mp4", "b_pyramid.mkv", "b_frames.avi", "stream.ts", "stream.flv", "vp9.webm"),
        *("vp8.webm", "animation.gif", "mpeg2.mpg", "raw.h264", "mjpeg.avi", "hevc.mp4"),
    ],
)
def test_200_single_flips(name: str, tmp_path: Path) -> None:
    source = MADE[name](tmp_path / name).read_bytes()
    flipped_once(tmp_path, source, name.split(".")[1], 200, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h265_video.mp4", "unordered.mov", "av1_video.mkv"])
def test_200_single_flips_of_a_real_clip(name: str, tmp_path: Path) -> None:
    if not (CLIPS / name).exists():
        pytest.skip(f"no ../shared/data/clips/{name}")
    flipped_once(tmp_path, (CLIPS / name).read_bytes(), name.split(".")[1], 200, seed=2)


def test_headers_flipped_once(tmp_path: Path) -> None:
    """Where a bit counts most: the last part of an MP4 is its tables."""
    source = valid_bytes(tmp_path, "mp4", frames=3)
    tables = source[source.index(b"moov") :]
    for number, path in enumerate(flipped_files(tmp_path, tables, "mp4", flips=60, each=1, seed=3)):
        path.write_bytes(source[: -len(tables)] + path.read_bytes())
        entry = scan_video(path, decode=True)
        assert isinstance(entry, Video) or "\n" not in entry.reason, number
