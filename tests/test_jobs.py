"""Jobs over many files: the order, what crashes, and Ray, a process of which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from m3video.cli import main
from m3video.errors import ConfigError
from m3video.find import elsewhere
from m3video.find.embed import embed
from m3video.find.features import open_features
from m3video.jobs import check_engine, run_jobs
from m3video.video import pack as packing
from m3video.video import reencode as copying
from m3video.video.index import index
from m3video.video.manifest import Unreadable, Video, load_manifest
from m3video.video.pack import pack
from m3video.video.scan import scan_videos
from m3video.whole import written_whole
from tests.conftest import write_video
from tests.find.conftest import config, write_model

DIE, FAIL = 5, 7
_write_shard, _make = packing._write_shard, copying._make
_embed_range = elsewhere._embed_range


def kill_once(marker: Path) -> None:
    """End this process as the system does, but only once."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def note(number: int, folder: Path) -> int:
    """Write that an item was done; one item ends its process whenever it is done."""
    if number == DIE:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / str(number)).touch()
    return number * number


def fail(number: int) -> int:
    if number == FAIL:
        raise ConfigError(f"item {number} is not one")
    return number


def shard_or_die(shard: packing._Shard, marker: Path) -> tuple[list[Video], list[Unreadable]]:
    if shard.out.name == "000001.tar":
        kill_once(marker)
    return _write_shard(shard)


def copy_or_die(copy: copying._Copy, marker: Path, short_side: int) -> Video | Unreadable:
    if copy.video.path.name == "2.mp4":
        kill_once(marker)
    return _make(copy, short_side)


def range_or_die(units: elsewhere._Range, marker: Path) -> elsewhere._Range | None:
    if units.first:
        kill_once(marker)
    return _embed_range(units)


def write_slowly(path: Path, *, first_dies: bool) -> None:
    """Two items of which the first may end its process, so that each is tried alone."""
    if first_dies and not path.with_suffix(".died").exists():
        path.with_suffix(".died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    with written_whole(path, shared=True) as aside:
        aside.write_text(str(os.getpid()))
        path.with_suffix(".pid").write_text(str(os.getpid()))
        time.sleep(100)


SLOW = """
import signal
import sys
from functools import partial
from pathlib import Path
from m3video.cli import VERBS, main
from m3video.jobs import run_jobs
from tests.test_jobs import write_slowly

def report(arguments):
    paths = [Path(sys.argv[1], name) for name in sys.argv[2].split(",")]
    write = partial(write_slowly, first_dies=sys.argv[3] == "dies")
    run_jobs(write, paths, crashed=lambda path: None, workers=2, title="", progress=False)

VERBS["report"] = report
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with & ignores it
sys.exit(main(["report"]))
"""


def gone(number: int) -> bool:
    """Whether a process has ended, also where nobody has asked for its exit code yet."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until(true: Callable[[], bool], seconds: float = 40) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize("way", ["pool", "dies"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_verb(number: signal.Signals, way: str, tmp_path: Path) -> None:
    names = ["a"] if way == "dies" else ["a", "b"]
    command = [sys.executable, "-c", SLOW, str(tmp_path), ",".join(names), way]
    verb = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    pids = [tmp_path / f"{name}.pid" for name in names]
    assert until(lambda: all(pid.exists() and pid.read_text() for pid in pids))
    verb.send_signal(number)
    try:
        _, said = verb.communicate(timeout=40)
    finally:
        verb.kill()
    assert verb.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert until(lambda: all(gone(int(pid.read_text())) for pid in pids), 15)
    assert list(tmp_path.glob(".*.partial")) == []
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert said == "m3video report: interrupted\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_a_crash_costs_its_own_item(tmp_path: Path, workers: int) -> None:
    found = run_jobs(
        partial(note, folder=tmp_path),
        range(12),
        crashed=lambda number: -number,
        workers=workers,
        title="test",
        progress=False,
    )
    assert found == [-n if n == DIE else n * n for n in range(12)]
    assert sorted(int(path.name) for path in tmp_path.iterdir()) == [
        n for n in range(12) if n != DIE
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_is_raised_here(workers: int) -> None:
    with pytest.raises(ConfigError, match="item 7 is not one"):
        run_jobs(fail, range(12), crashed=abs, workers=workers, title="test", progress=False)


@pytest.mark.parametrize("engine", ["", "Ray", "ray:", "ray://", "dask", "processes:2"])
def test_other_engines_are_refused(engine: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"^engine '{engine}': use processes, ray"):
        check_engine(engine)
    with pytest.raises(ConfigError, match="use processes, ray"):
        config(tmp_path, tmp_path, tmp_path / "f.npz", engine=engine)
    for known in ("processes", "ray", "ray:auto", "ray:10.0.0.1:6379", "ray://10.0.0.1:10001"):
        assert check_engine(known) == known


def test_without_ray_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    write_video(tmp_path / "v" / "a.mp4", frames=2)
    out = str(tmp_path / "m.csv")
    assert main(["index", str(tmp_path / "v"), "--out", out, "--engine", "ray"]) == 2
    captured = capsys.readouterr().err
    assert captured.splitlines()[-1].startswith(
        "m3video index: engine ray: needs Ray: pip install 'm3video[ray]', or use --engine"
    )
    assert not Path(out).exists()


def test_of_ray_it_is_not_said_why_a_process_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(
        function: object, items: list[Path], crashed: Callable[[Path], Unreadable], **_: object
    ):
        yield from ((number, crashed(item)) for number, item in enumerate(items))

    monkeypatch.setattr("m3video.ray_jobs.in_ray", lose)
    options = {"workers": 1, "decode": False, "progress": False, "engine": "ray"}
    found = scan_videos([tmp_path / "a.mp4"], **options)
    assert isinstance(found[0], Unreadable)
    assert found[0].reason == "the decoder crashed on it, or gave nothing for 60 seconds"


@pytest.fixture
def ray() -> None:
    """Ray may be started."""
    pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of two processes on this machine, which find these tests; jobs join it."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        root = Path(__file__).parents[1]
        patch.setenv("PYTHONPATH", f"{root / 'src'}{os.pathsep}{root}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        memory = 200 * 2**20
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=memory,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.mark.slow
def test_ray_does_what_processes_do(ray: None, tmp_path: Path) -> None:
    """One item ends every process that it is given to; the others are done once or again."""
    found = run_jobs(
        partial(note, folder=tmp_path),
        range(40),
        crashed=lambda number: -number,
        workers=2,
        title="test",
        engine="ray",
        progress=False,
    )
    assert found == [-n if n == DIE else n * n for n in range(40)]
    assert len(list(tmp_path.iterdir())) == 39
    with pytest.raises(ConfigError, match="no Ray cluster answers there"):
        run_jobs(fail, [1], crashed=abs, workers=2, title="", engine="ray:auto", progress=False)


@pytest.mark.slow
def test_what_ray_cannot_call_is_an_error_and_no_crash(cluster: None) -> None:
    with pytest.raises(ConfigError, match="item 7 is not one"):
        run_jobs(fail, range(9), crashed=abs, workers=2, title="", engine="ray", progress=False)
    nowhere = types.ModuleType("nowhere")  # a module that only this process has
    exec("def square(number): return number * number", vars(nowhere))
    nowhere.square.__module__ = "nowhere"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "nowhere", nowhere)
        with pytest.raises(ConfigError, match=r"its processes cannot do this.*nowhere"):
            run_jobs(
                nowhere.square, [1], crashed=abs, workers=2, title="", engine="ray", progress=False
            )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        write_video(tmp_path / "videos" / f"{number}.mp4", frames=12 + number)
    return tmp_path / "videos"


@pytest.mark.slow
def test_copies_and_shards_by_ray_though_processes_are_killed(
    cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths mean the same to all
    wanted = index("videos", "one/small.csv", workers=0, reencode=32)
    make = partial(copy_or_die, marker=tmp_path / "copy-killed")
    monkeypatch.setattr(copying, "_make", make)
    found = index("videos", "two/small.csv", workers=2, reencode=32, engine="ray")
    assert (tmp_path / "copy-killed").exists()
    assert [video.path.name for video in found.videos] == [f"{number}.mp4" for number in range(5)]
    assert found.unreadable == ()
    for one, other in zip(wanted.videos, found.videos, strict=True):
        assert one.path.name == other.path.name
        assert replace(one, path=other.path) == other  # as many frames, at the same rate

    pack("videos", "shards", shard_videos=2, workers=0)
    write = partial(shard_or_die, marker=tmp_path / "shard-killed")
    monkeypatch.setattr(packing, "_write_shard", write)
    pack("videos", "again", shard_videos=2, workers=2, engine="ray")
    assert (tmp_path / "shard-killed").exists()
    assert [video.frames for video in load_manifest("again").videos] == [12, 13, 14, 15, 16]
    names = sorted(path.name for path in Path("shards").iterdir())
    assert sorted(path.name for path in Path("again").iterdir()) == names
    for name in names:
        assert Path("shards", name).read_bytes() == Path("again", name).read_bytes()


@pytest.mark.slow
def test_features_by_ray_though_a_process_is_killed(
    cluster: None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path / "model")
    options = {"per": "clip", "hop": 0.08, "batch": 2}
    one = embed(config(folder, model, tmp_path / "one.parquet", **options))
    job = partial(range_or_die, marker=tmp_path / "killed")
    monkeypatch.setattr(elsewhere, "_embed_range", job)
    settings = config(folder, model, tmp_path / "two.parquet", workers=2, engine="ray", **options)
    two = embed(settings)
    assert (tmp_path / "killed").exists()
    assert one.rows == two.rows > 8
    first, second = open_features(one.out), open_features(two.out)
    assert first.paths == second.paths
    np.testing.assert_array_equal(first.start, second.start)
    # Ray gives each process one thread, so sums may be rounded otherwise.
    np.testing.assert_allclose(first.vectors(), second.vectors(), rtol=1e-4, atol=1e-5)
