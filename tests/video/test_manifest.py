"""Scanning folders and reading lists."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from m3video import jobs
from m3video.errors import ManifestError
from m3video.video import scan
from m3video.video.index import index
from m3video.video.manifest import Manifest, Unreadable, Video, load_manifest, write_manifest

Made = Callable[[str], Path]
SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def folder(made: Made, tmp_path: Path) -> Path:
    """Two classes, a file outside, a hidden one, a text, and one that is no video."""
    root = tmp_path / "videos"
    for name, clip in {
        "run/b.mp4": "b_frames.mp4",
        "run/a clip.MKV": "uneven.mkv",
        "jump/c.avi": "plain.avi",
        "jump/.d.mp4": "b_frames.mp4",
        "e.webm": "vp9.webm",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made(clip).read_bytes())
    (root / "jump" / "broken.mp4").write_text("no video")
    (root / "jump" / "notes.txt").write_text("no video")
    return root


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("decode", [True, False])
def test_folder(folder: Path, workers: int, decode: bool) -> None:
    manifest = load_manifest(folder, workers=workers, decode=decode, labels_from_folders=True)
    found = [(str(v.path.relative_to(folder)), v.label, v.frames) for v in manifest.videos]
    assert found == [
        ("e.webm", None, 40),
        ("jump/c.avi", "jump", 40),
        ("run/a clip.MKV", "run", 40),
        ("run/b.mp4", "run", 40),
    ]
    assert manifest.labels == ("jump", "run")
    (bad,) = manifest.unreadable
    assert bad.path == folder / "jump" / "broken.mp4"
    assert bad.reason == "Invalid data found when processing input"
    video = manifest.videos[0]
    assert (video.height, video.width, video.fps, video.duration) == (45, 67, 25.0, 1.6)


def test_linked_folders_are_followed_once(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "links"
    root.mkdir()
    (root / "run").symlink_to(folder / "run")
    (folder / "run" / "up").symlink_to(root)
    manifest = load_manifest(root, decode=False)
    assert [video.path.name for video in manifest.videos] == ["a clip.MKV", "b.mp4"]


def test_index_writes_what_load_reads_without_scanning(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = folder / "lists" / "all.csv"
    outside = index(folder, out, labels_from_folders=True, workers=0)
    said = capsys.readouterr().err
    assert "4 videos, 160 frames, 0.1 minutes, 2 labels" in said
    assert f"unreadable {folder}/jump/broken.mp4: Invalid data found" in said
    assert rows(out)[0]["path"] == str(folder / "e.webm")  # not below the list: absolute
    assert rows(folder / "lists" / "all.unreadable.csv") == [
        {"path": f"{folder}/jump/broken.mp4", "reason": "Invalid data found when processing input"}
    ]
    inside = folder / "all.csv"
    write_manifest(outside, inside)
    assert [row["path"] for row in rows(inside)] == [
        "e.webm",
        "jump/c.avi",
        "run/a clip.MKV",
        "run/b.mp4",
    ]
    monkeypatch.setattr(scan, "scan_video", None)  # would fail
    assert load_manifest(inside).videos == outside.videos
    assert load_manifest(out).videos == outside.videos
    assert sorted(path.name for path in out.parent.iterdir()) == ["all.csv", "all.unreadable.csv"]


def test_a_clean_scan_leaves_no_old_list_of_unreadable_ones(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.csv"
    index(folder, out, workers=0, decode=False)
    (folder / "jump" / "broken.mp4").unlink()
    index(folder, out, workers=0, decode=False)
    assert not (tmp_path / "all.unreadable.csv").exists()


def test_csv_keeps_columns_and_finds_what_is_missing(folder: Path) -> None:
    path = folder / "list.csv"
    path.write_text(
        "split, path ,label,frames,fps,width,height,duration\n"
        "train,run/b.mp4,7,,,,,\n"
        "test,jump/c.avi,10,12,5,8,9,2.4\n"
        'test,"run/a clip.MKV",,40,,,,\n',
        encoding="utf-8-sig",
    )
    manifest = load_manifest(path, labels_from_folders=True)
    assert manifest.videos[1] == Video(
        folder / "jump/c.avi", 12, 5.0, 8, 9, 2.4, "10", {"split": "test"}
    )
    assert (manifest.videos[0].frames, manifest.videos[0].extra) == (40, {"split": "train"})
    assert manifest.videos[2].label is None  # its folder is none where the list has labels
    write_manifest(manifest, folder / "again.csv")
    assert load_manifest(folder / "again.csv").videos == manifest.videos


@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_lists_of_paths_and_labels(folder: Path, separator: str) -> None:
    path = folder / "train.txt"
    names = ["run/b.mp4", "run/a clip.MKV", str(folder / "e.webm")]
    lines = [f"{name}{separator}{label}" for label, name in enumerate(names, start=9)]
    path.write_text("\n".join([*lines, "", "jump/c.avi", ""]))
    manifest = load_manifest(path, decode=False)
    assert [(video.path, video.label) for video in manifest.videos] == [
        (folder / "run/b.mp4", "9"),
        (folder / "run/a clip.MKV", "10"),
        (folder / "e.webm", "11"),
        (folder / "jump/c.avi", None),
    ]
    assert manifest.labels == ("9", "10", "11")  # by value, not by name


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", ",", "\t", ", "])
def test_labels_of_lists_may_hold_spaces(folder: Path, separator: str, newline: str) -> None:
    """As Something-Something's do; and paths hold spaces and commas."""
    odd = folder / "a b, c.mp4 d.avi"
    odd.write_bytes((folder / "run/b.mp4").read_bytes())
    path = folder / "train.txt"
    lines = [f"run/a clip.MKV{separator}Pulling two ends", f"{odd.name}{separator}pull-ups, many"]
    path.write_bytes(newline.join(lines).encode("utf-8-sig"))
    manifest = load_manifest(path, decode=False)
    assert [(video.path, video.label) for video in manifest.videos] == [
        (folder / "run/a clip.MKV", "Pulling two ends"),
        (odd, "pull-ups, many"),
    ]


def test_windows_csv(folder: Path) -> None:
    path = folder / "list.csv"
    text = 'path,label\r\nrun/b.mp4,Put it\r\n"run/a clip.MKV","b, c"\r\n'
    path.write_bytes(text.encode("utf-8-sig"))
    videos = load_manifest(path, decode=False).videos
    assert [video.label for video in videos] == ["Put it", "b, c"]


def test_a_header_between_tabs_is_a_header(folder: Path) -> None:
    (folder / "list.tsv").write_text("path\tlabel\nrun/b.mp4\tPut, it\n")
    manifest = load_manifest(folder / "list.tsv", decode=False)
    assert [(video.path, video.label) for video in manifest.videos] == [
        (folder / "run/b.mp4", "Put, it")
    ]
    assert not manifest.unreadable


def test_any_file_name_comes_back_from_a_manifest(made: Made, tmp_path: Path) -> None:
    """Also those with what Unicode calls an end of a line, and bytes that are no UTF-8."""
    names = ["line\nfeed.mp4", "next\x85line.mp4", "sep\u2028.mp4", 'a, "b".mp4', "lat\udce9.mp4"]
    for name in names:
        (tmp_path / name).write_bytes(made("b_frames.mp4").read_bytes())
    manifest = index(tmp_path, tmp_path / "all.csv", workers=0, decode=False)
    assert sorted(video.path.name for video in manifest.videos) == sorted(names)
    assert load_manifest(tmp_path / "all.csv").videos == manifest.videos


def test_labels_are_sorted_by_name_unless_all_are_numbers() -> None:
    def labels(*names: str) -> tuple[str, ...]:
        return Manifest(tuple(Video(Path("a"), 1, 1, 1, 1, 1, name) for name in names)).labels

    assert labels("10", "9", "10") == ("9", "10")
    assert labels("10", "9", "b") == ("10", "9", "b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,frames\na.mp4,3,4\n", "line 2: does not have as many fields as the header"),
        ("path,frames\n\na.mp4\n", "line 3: does not have as many fields as the header"),
        ("label,path\nx,\n", "line 2: the path is empty"),
        (
            "path,frames,fps,width,height,duration\na.mp4,many,1,1,1,1\n",
            "line 2: frames 'many' is not a whole number above 0",
        ),
        (
            "path,frames,fps,width,height,duration\na.mp4,3,0,1,1,1\n",
            "line 2: fps '0' is not a number above 0",
        ),
        ("video,label\na.mp4,x\n", "line 1: the columns are video, label, and none is `path`"),
        ("video\tlabel\na.mp4\tx\n", "line 1: the columns are video, label, and none is"),
        ("a.mp4 1\nwhat\n", "line 2: 'what' is not a path and a label"),
        ("", "the list is empty"),
        ("gone.mp4 1\n", "none of its 1 videos can be read; the first: "),
        ("a\0b", "not a text file"),
        ("q" * 200_000, "line 1: not a line of a CSV or a list"),
        ("q" * 100_000, "is not a path and a label"),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none.csv: No such file or directory; give a folder"):
        load_manifest(tmp_path / "none.csv")
    with pytest.raises(ManifestError, match="no videos found"):
        load_manifest(tmp_path)
    with pytest.raises(ManifestError, match="is a folder; give the name of a CSV"):
        index(tmp_path, tmp_path)


def test_a_single_video_is_no_list(made_clip: Path) -> None:
    words = r"made\.mp4: one video; give its folder, or a list that names it"
    with pytest.raises(ManifestError, match=words):
        load_manifest(made_clip)


def test_what_index_cannot_do_is_refused_before_scanning(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "scan_video", None)  # would fail
    (tmp_path / "file").touch()
    with pytest.raises(ManifestError, match=r"m.csv: cannot be written, as .*file is not a folder"):
        index(folder, tmp_path / "file" / "m.csv")
    with pytest.raises(ManifestError, match="workers -1: use 0"):
        index(folder, tmp_path / "m.csv", workers=-1)


def test_where_nothing_can_be_read_every_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (videos / name).write_text("no video")
    with pytest.raises(ManifestError, match="none of its 2 videos can be read; the first: "):
        index(videos, tmp_path / "m.csv", workers=0)
    said = capsys.readouterr().err
    listed = [row["path"] for row in rows(tmp_path / "m.unreadable.csv")]
    assert listed == [str(videos / name) for name in ("a.mp4", "b.mp4")]
    assert all(f"unreadable {path}: Invalid data" in said for path in listed)
    assert not (tmp_path / "m.csv").exists()


def test_a_folder_that_cannot_be_opened_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: str) -> Iterator[os.DirEntry[str]]:
        if Path(path) == folder / "run":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    manifest = load_manifest(folder, decode=False)
    assert [video.path.name for video in manifest.videos] == ["e.webm", "c.avi"]
    assert [(bad.path.name, bad.reason) for bad in manifest.unreadable] == [
        ("broken.mp4", "Invalid data found when processing input"),
        ("run", "folder cannot be opened: Permission denied"),
    ]


def _crash(path: Path, decode: bool) -> Video | Unreadable:
    if path.name == "b.mp4":
        os._exit(11)
    return Video(path, 1, 1, 1, 1, 1)


def test_a_file_that_crashes_the_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "scan_video", _crash)
    paths = [Path(f"{name}.mp4") for name in "abcd"]
    found = scan.scan_videos(paths, workers=2, decode=True, progress=False)
    assert [entry.path for entry in found] == paths
    assert [isinstance(entry, Video) for entry in found] == [True, False, True, True]
    assert found[1] == Unreadable(paths[1], "the decoder crashed on it")


def test_scanning_goes_on_in_processes_after_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few files wait at a time; those that come after a crash are not scanned one by one."""
    alone: list[Path] = []

    def scan_alone(_: object, path: Path, *others: object) -> Video | Unreadable:
        alone.append(path)
        return Unreadable(path, "crashed") if path.name == "b.mp4" else Video(path, 1, 1, 1, 1, 1)

    monkeypatch.setattr(scan, "scan_video", _crash)
    monkeypatch.setattr(jobs, "_alone", scan_alone)
    monkeypatch.setattr(jobs, "_AHEAD", 1)
    paths = [Path(f"{name}.mp4") for name in "abcdefghijklmnopqrstuvwxyz"]
    found = scan.scan_videos(paths, workers=2, decode=True, progress=False)
    assert [entry.path for entry in found] == paths
    assert [entry.path.name for entry in found if isinstance(entry, Unreadable)] == ["b.mp4"]
    assert paths[1] in alone
    assert len(alone) < 10


def test_real_folder_names_the_corrupted_clip(tmp_path: Path) -> None:
    if not (SHARED / "clips").exists():
        pytest.skip("no ../shared/data/clips")
    manifest = load_manifest(SHARED / "clips")
    assert len(manifest.videos) == 14
    assert [(bad.path.name, bad.reason) for bad in manifest.unreadable] == [
        (
            "corrupted.mp4",
            "frame 28 cannot be decoded: Invalid data found when processing input",
        )
    ]


def test_real_list_keeps_its_columns() -> None:
    source = SHARED / "ut_interaction" / "manifest.csv"
    if not source.exists():
        pytest.skip("no ../shared/data/ut_interaction/manifest.csv")
    manifest = load_manifest(source, decode=False)
    assert len(manifest.videos) == 120
    assert manifest.labels == ("handshake", "hug", "kick", "point", "punch", "push")
    assert {video.extra["set"] for video in manifest.videos} == {"1", "2"}
    assert all(video.height == 160 for video in manifest.videos)


def test_a_folder_is_no_label_where_the_list_has_labels(tmp_path: Path) -> None:
    """A test set without answers lies in `videos`, as all do: that is no class of its own."""
    facts = ",9,25,48,32,1\n"
    rows = f"videos/a.mp4,wave{facts}videos/b.mp4,nod{facts}videos/c.mp4,{facts}"
    (tmp_path / "m.csv").write_text(f"path,label,frames,fps,width,height,duration\n{rows}")
    manifest = load_manifest(tmp_path / "m.csv", labels_from_folders=True)
    assert [video.label for video in manifest.videos] == ["wave", "nod", None]
    assert manifest.labels == ("nod", "wave")
    rows = f"left/a.mp4,{facts}right/b.mp4,{facts}"
    (tmp_path / "m.csv").write_text(f"path,label,frames,fps,width,height,duration\n{rows}")
    manifest = load_manifest(tmp_path / "m.csv", labels_from_folders=True)
    assert manifest.labels == ("left", "right"), "a list without any label takes the folders"
