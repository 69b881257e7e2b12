"""The command line: one clear line and exit code 2 for bad input; help that tells the options."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m3video.cli import BENCHMARKS, VERBS, main
from m3video.config import PretrainConfig
from m3video.errors import NotWrittenError, StoppedError
from m3video.train.run import RunDirectory
from m3video.whole import written_whole
from tests.train.tiny import tiny_config


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretain"], "unknown verb 'pretain': use one of pretrain, probe"),
        (["pretrain"], "pretrain: --data and --out are required; see m3video pretrain --help\n"),
        (["pretrain", "--data", "x"], "pretrain: --out is required; see m3video pretrain --help\n"),
        (["search"], "search: STR and --features are required; see"),
        (["embed"], "embed: STR, --model and --out are required; see"),
        (
            ["pretrain", "--data", "x", "--out", "y", "--mask.ratio", "1.5"],
            "pretrain: --mask.ratio: Input should be above 0 and below 1 (got 1.5); see",
        ),
        (
            ["finetune", "--init", "x", "--data", "x", "--out", "y", "--val-share=1.2"],
            "finetune: --val-share: Input should be at least 0 and below 1 (got 1.2); see",
        ),
        (
            ["pretrain", "--data", "x", "--out", "y", "--clip.size", "33", "48"],
            "clip: size 33×48 is not a multiple of patch 16",
        ),
        (
            ["pretrain", "--data", "x", "--out", "y", "--motion.flow", "exact"],
            "motion.flow exact is for data moving-shapes, and data is 'x'",
        ),
        (
            [
                "pretrain",
                "--data",
                "x",
                "--out",
                "y",
                "--targets.hog.weight=1",
                "--targets.hog.cell=5",
            ],
            "targets.hog.cell 5 does not divide patch 16",
        ),
        (
            ["pretrain", "--data", "x", "--out", "y", "--train.batch", "0"],
            "--train.batch: Input should be greater than or equal to 1 (got 0)",
        ),
        (["pretrain", "--data", "x", "--out", "y", "--train.batch", "many"], "'many'"),
        (["pretrain", "--data", "x", "--out", "y", "--train.steps", "a"], "'a': use None or INT"),
        (["pretrain", "--data", "x", "--out", "y", "--lr", "1"], "--lr: not understood"),
        (
            ["pretrain", "--data", "x", "--out", "y", "--train.step", "1"],
            "--train.step: not understood; perhaps --train.steps, --train.",
        ),
        (["pretrain", "--dta", "x", "--out", "y"], "--dta: not understood; perhaps --data"),
        (["embed", "x", "--foo", "1", "--out", "y"], "--foo: not understood; missing: --model"),
        (["pretrain", "--data", "x", "--out", "y", "--clip.size", "64", "a"], "64 a: use INT INT"),
        (["evaluate", "--crops", "2"], "--crops '2': use one of 1, 3, None"),
        (["probe", "--init", "x", "--data", "y", "--shots", "0"], "shots.0: Input should be"),
        (
            ["pretrain", "--recipe", "mmme", "--data", "x", "--out", "y"],
            "recipe 'mmme' is not known",
        ),
        (
            ["pretrain", "--config", "nowhere.yaml"],
            "nowhere.yaml: no such file; give the config.yaml of a run\n",
        ),
        (["pretrain", "--config", "."], "pretrain: .: Is a directory; give the config.yaml of"),
        (["pretrain", "--recipe", "mme", "--config", "c.yaml"], "use one of them"),
        (["pretrain", "--data", "nowhere", "--out", "y"], "nowhere"),
        (["probe", "--init", "nowhere", "--data", "moving-shapes"], "nowhere"),
        (["index", "nowhere", "--out", "m.csv"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["study", "nowhere.yaml", "--out", "y"], "nowhere.yaml: no such file; give the YAML of a"),
        (["study", "nowhere.yaml"], "--out"),
        (["track", "nowhere.mp4", "--out", "t.mp4"], "nowhere.mp4: No such file"),
        (["track", "v.mp4", "--out", "t.gif"], "out t.gif must end in .mp4, .html or .npz"),
        (["track", "v.mp4", "--out", "t.mp4", "--flow", "raft"], "flow raft needs weights"),
        (["track", "v.mp4", "--out", "t.mp4", "--flow", "exact"], "flow exact comes with rendered"),
        (["track", "v.mp4", "--out", "t.mp4", "--start", "2.5"], "start '2.5' must be frames"),
        (
            ["track", "v.mp4", "--out", "t.mp4", "--length", "0"],
            "track: --length: Input should be at least 1 and at",
        ),
        (["track", "v.mp4", "--out", "t.mp4", "--flow", "tvl2"], "'tvl2'"),
        (["benchmark", "speed"], "'speed' cannot be measured: use one of motion, loader, train"),
        (["benchmark", "train", "--json", "no/where.json"], "no folder no"),
        (["benchmark", "train", "--json", "."], "is a folder"),
        (["pretrain", "--data", "moving-shapes", "--out", "/dev/null/x"], "/dev/null cannot be"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert words in captured.err
    assert captured.err.startswith("m3video")
    assert list(tmp_path.iterdir()) == [], "something half-written was left"


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_the_one_line_is_the_same_on_every_terminal(encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3video", "pretrain", "--data=x", "--out=y", "--train.batch=0"],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "m3video pretrain: --train.batch: Input should be greater than or equal to 1 (got 0); "
        "see m3video pretrain --help\n"
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb == "benchmark":
        assert main([verb, "--help"]) == 0
    else:
        with pytest.raises(SystemExit) as stop:
            main([verb, "--help"])
        assert stop.value.code == 0
    assert f"usage: m3video {verb}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_every_benchmark_takes_json(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["benchmark", kind, "--help"])
    assert "--json" in capsys.readouterr().out


def test_help_shows_the_recipes_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--recipe", "videomae", "--help"])
    shown = capsys.readouterr().out
    assert "(default: 0.9)" in shown
    assert "HOG along the trajectory" in " ".join(shown.replace("│", " ").split()), "what mme is"


def test_as_a_module_without_arguments_it_lists_the_verbs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "m3video"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert all(verb in done.stdout for verb in VERBS)


def test_pretrain_probe_report_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny = ["--clip.size", "32", "48", "--train.steps", "3", "--train.batch", "4"]
    tiny += ["--train.workers", "0", "--shapes.clips", "12", "--train.checkpoint-every", "2"]
    pretrain = [
        "pretrain",
        "--recipe",
        "mme-tiny",
        "--data",
        "moving-shapes",
        "--out",
        "run",
        *tiny,
    ]
    assert main(pretrain) == 0
    run = tmp_path / "run"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    assert (run / "report.html").stat().st_size > 10_000
    capsys.readouterr()
    assert main(pretrain) == 2, "a used run directory was not refused"
    assert "--resume" in capsys.readouterr().err
    probe = ["probe", "--init", "run", "--data", "moving-shapes", "--train-clips", "48"]
    assert main([*probe, "--test-clips", "24", "--workers", "0", "--epochs", "2"]) == 0
    result = json.loads((run / "probe-moving-shapes.json").read_text())
    assert result["clips"] == {"train": 48, "test": 24}
    assert 0 <= result["linear"] <= 1
    assert main(["report", "run"]) == 0
    assert "probe" in (run / "report.html").read_text().lower()


def test_a_path_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(arguments: list[str]) -> int:
        (tmp_path / "nowhere" / "report.html").write_text("")
        return 0

    monkeypatch.setitem(VERBS, "report", report)
    assert main(["report"]) == 2
    expected = f"m3video report: {tmp_path}/nowhere/report.html: No such file or directory\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 2) for number in (errno.EACCES, errno.ENOENT, errno.EROFS)),
        *((number, 1) for number in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)),
        *((number, 1) for number in (errno.ESTALE, errno.EMFILE, errno.ECONNRESET)),
    ],
)
@pytest.mark.parametrize("noted", [False, True])
def test_errors_of_files_are_one_line_and_of_the_machine_exit_1(
    number: int,
    code: int,
    noted: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ended: list[int] = []

    def report(arguments: list[str]) -> int:
        error = OSError(number, os.strerror(number), "some/where")
        if noted:
            reason = f"some/where: cannot be written: {error.strerror}"
            raise NotWrittenError.of(reason, error) from error
        raise error

    monkeypatch.setitem(VERBS, "report", report)
    monkeypatch.setattr("m3video.cli.ended", lambda code: ended.append(code) or code)
    assert main(["report"]) == code
    assert ended == [code]  # one of several processes has to break its connections
    said = capsys.readouterr().err
    assert said.startswith("m3video report: some/where: ")
    assert os.strerror(number) in said
    assert said.count("\n") == 1


def test_what_does_not_fit_on_the_disk_is_named(tmp_path: Path) -> None:
    def fill(number: int, path: Path) -> None:
        with written_whole(path) as aside:
            aside.touch()
            raise OSError(number, os.strerror(number))  # as writing to an open file raises it

    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        with pytest.raises(OSError, match=r"00\.tar"):
            fill(number, tmp_path / "00.tar")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_a_library_without_a_number_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def report(arguments: list[str]) -> int:
        raise TimeoutError

    monkeypatch.setitem(VERBS, "report", report)
    assert main(["report"]) == 1
    assert capsys.readouterr().err == "m3video report: TimeoutError\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt, 130), (StoppedError(signal.SIGTERM), 143), (BrokenPipeError, 141)],
)
def test_ctrl_c_and_a_closed_pipe_are_no_tracebacks(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | BaseException, code: int
) -> None:
    def report(arguments: list[str]) -> int:
        raise error

    monkeypatch.setitem(VERBS, "report", report)
    assert main(["report"]) == code


def test_resume_needs_the_directory_alone_also_when_it_was_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory(Path("first"))
    run.create(tiny_config(run.path), None, "cpu")
    asked: list[PretrainConfig] = []

    def stop(config: PretrainConfig) -> None:
        asked.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("m3video.train.pretrain.pretrain", stop)
    assert main(["pretrain", "--resume", "--out", "first"]) == 130
    run.path.rename("second")
    assert main(["pretrain", "--resume", "--config", "second/config.yaml"]) == 130
    assert main(["pretrain", "--config=second/config.yaml", "--resume", "--train.workers=3"]) == 130
    assert asked == [
        tiny_config(Path("first"), resume=True),
        tiny_config(Path("second"), resume=True),
        tiny_config(Path("second"), resume=True, train={"workers": 3}),
    ]
    assert main(["pretrain", "--config", "second/config.yaml", "--out", "third"]) == 130
    assert asked[-1] == tiny_config(Path("third"))
    assert main(["pretrain", "--resume", "--out", "nowhere"]) == 2
    assert "nowhere holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [["pretrain"], ["finetune"], ["detect", "train"]])
def test_resuming_where_nothing_is_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    assert main([*verb, "--resume", "--out", str(tmp_path / "none")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'none'} holds no run" in said
    assert said.count("\n") == 1
