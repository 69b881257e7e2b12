"""Videos in columns: they are those that were put in, and take little memory."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m3video.errors import ManifestError
from m3video.video.columns import Videos
from m3video.video.manifest import Manifest, load_manifest
from m3video.video.scan import Video, unopened

TEXTS = st.text(st.characters())  # any, with lone surrogates and line ends
NAMES = st.one_of(TEXTS, st.binary().map(os.fsdecode))  # that are UTF-8 or not
FACTS = st.floats(allow_nan=False)
COUNTS = st.integers(0, 2**63 - 1)
VIDEOS = st.lists(
    st.builds(
        Video,
        NAMES.map(Path),
        frames=COUNTS,
        fps=FACTS,
        width=COUNTS,
        height=COUNTS,
        duration=FACTS,
        label=st.none() | TEXTS,
        extra=st.dictionaries(TEXTS, TEXTS, max_size=3),
    ),
    max_size=8,
)
SOME = [
    Video(Path(f"{n}.mp4"), n + 1, 25.0, 48, 32, 0.5, "ab"[n % 2], {"split": "train"} if n else {})
    for n in range(5)
]


@given(VIDEOS)
@settings(deadline=None)
def test_columns_give_back_what_was_put_in(videos: list[Video]) -> None:
    columns = Videos(iter(videos))
    assert list(columns) == videos
    assert [list(v.extra) for v in columns] == [list(v.extra) for v in videos]
    assert [str(v.path) for v in columns] == [str(v.path) for v in videos]
    assert list(columns.paths) == [v.path for v in videos]
    assert list(columns.frames) == [v.frames for v in videos]
    assert columns.labels == {v.label for v in videos} - {None}
    assert columns == tuple(videos)
    for again in (pickle.loads(pickle.dumps(columns)), copy.deepcopy(columns), Videos(columns)):
        assert again == columns


def test_texts_that_are_escaped_alike_stay_apart() -> None:
    paths = [Path("\udcc3\udca9.mp4"), Path("é.mp4"), Path("\udce9.mp4"), Path("a\nb\r.mp4")]
    assert list(Videos(map(unopened, paths)).paths) == paths


@given(st.slices(len(SOME) + 2))
def test_a_slice_is_that_of_a_list(part: slice) -> None:
    assert list(Videos(SOME)[part]) == SOME[part]
    assert isinstance(Videos(SOME)[part], Videos)


def test_it_is_a_sequence() -> None:
    videos = Videos(SOME)
    assert (len(videos), videos[-1], videos[-5]) == (5, SOME[-1], SOME[0])
    for outside in (5, -6):
        with pytest.raises(IndexError):
            videos[outside]
    assert list(reversed(videos)) == SOME[::-1]
    assert SOME[2] in videos
    assert videos.index(SOME[2]) == 2
    assert not Videos()
    assert Videos(SOME) != Videos(SOME[:-1])
    assert Videos(SOME) != Videos(SOME[::-1])
    assert Videos(SOME) != SOME  # nor is a tuple a list


def test_more_values_than_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m3video.video.columns._REMEMBERED", 1)
    assert list(Videos(SOME)) == SOME
    assert Videos(SOME).labels == {"a", "b"}


def test_a_manifest_keeps_columns_whatever_it_is_given() -> None:
    manifest = Manifest(tuple(SOME))
    assert isinstance(manifest.videos, Videos)
    assert manifest == Manifest(Videos(SOME)) == pickle.loads(pickle.dumps(manifest))
    assert manifest.labels == ("a", "b")


@pytest.mark.parametrize("frames", ["1e300", "9223372036854775808", str(2**53)])
def test_a_number_that_no_column_holds_is_refused(tmp_path: Path, frames: str) -> None:
    listing = tmp_path / "m.csv"
    listing.write_text(f"path,frames,fps,width,height,duration\na.mp4,{frames},25,48,32,1\n")
    with pytest.raises(ManifestError, match=r"line 2: frames .* below 2\*\*53"):
        load_manifest(listing)


def write_listing(path: Path, count: int) -> None:
    """A manifest as `index --format kinetics` writes it."""
    with path.open("w") as file:
        print("path,frames,fps,width,height,duration,label,id,split", file=file)
        for n in range(count):
            kind, name, split = (
                n * 400 // count,
                f"{n * 7919:011d}",
                "val" if n % 10 == 9 else "train",
            )
            where = f"/data/kinetics/videos/class_{kind:03d}/clip_{name}_000010_000020.mp4"
            print(f"{where},250,29.97,340,256,8.34,class {kind:03d},{name},{split}", file=file)


def _bytes(file: str, key: str) -> int:
    lines = Path("/proc/self", file).read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def measure(listing: str) -> None:
    """Print what a manifest costs in a process that is fresh, and in one that is forked from it."""
    before, start = _bytes("status", "VmRSS"), time.process_time()
    manifest = load_manifest(listing)
    load = time.process_time() - start
    gc.collect()
    count = len(manifest.videos)
    found = {
        "process": (_bytes("status", "VmRSS") - before) / count,
        "peak": (_bytes("status", "VmHWM") - before) / count,
        "load": load,
    }
    sys.stdout.flush()
    if os.fork():
        os.wait()
        return
    order = list(range(count))
    random.Random(0).shuffle(order)
    before, start = _bytes("smaps_rollup", "Private_Dirty"), time.process_time()
    for number in order:  # what a data worker does in an epoch, less the decoding
        video = manifest.videos[number]
        _ = (video.path, video.frames, video.label, video.extra)
    found["access"] = (time.process_time() - start) / count
    found["worker"] = (_bytes("smaps_rollup", "Private_Dirty") - before) / count
    print(json.dumps(found), flush=True)
    os._exit(0)


def measured(folder: Path, count: int) -> dict[str, float]:
    """Bytes a video in a `process`, at the `peak` and of a `worker`'s own; seconds."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("no /proc/self/smaps_rollup")
    listing = folder / "m.csv"
    write_listing(listing, count)
    code = f"from tests.video.test_columns import measure; measure({str(listing)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_50000_videos_take_little_memory(tmp_path: Path) -> None:
    found = measured(tmp_path, 50_000)
    assert found["process"] < 600  # as objects 1,600
    assert found["worker"] < 300  # as objects 1,050


@pytest.mark.slow
def test_figures_of_300000_videos(tmp_path: Path) -> None:
    found = measured(tmp_path, 300_000)
    print(
        f"{found['process']:.0f} bytes a video in a process, {found['peak']:.0f} at its peak, "
        f"{found['worker']:.0f} of a data worker's own; {found['load']:.1f} s to load, "
        f"{1e6 * found['access']:.1f} µs an access"
    )
    assert found["process"] < 400
    assert found["peak"] < 1000
    assert found["worker"] < 100
