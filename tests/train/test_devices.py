"""`--devices 2`: how the processes begin, and how they end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from m3video.config import PretrainConfig, save_config
from m3video.train.pretrain import pretrain
from tests.train.test_world import ROOT, assert_alike, environment, wait_for_step
from tests.train.tiny import read_metrics, tiny_config

TWO = [sys.executable, "-m", "m3video", "pretrain", "--devices", "2"]


def config_of(out: Path, **changes: object) -> PretrainConfig:
    train = {"steps": 12, "lr": 3.2e-2, "checkpoint_every": 4}
    return tiny_config(out, train=train, **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to, by one process."""
    return pretrain(config_of(tmp_path_factory.mktemp("whole") / "run"))


@pytest.mark.slow
def test_devices_starts_the_processes_and_bad_input_is_one_line(tmp_path: Path) -> None:
    command = [*TWO, "--recipe", "mme-tiny"]

    def start(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    bad = start("--data", "nowhere", "--out", "run")
    assert bad.returncode == 2
    lines = [line for line in bad.stderr.splitlines() if "nowhere" in line]
    assert len(lines) == 1, bad.stderr
    assert "Traceback" not in bad.stderr
    assert not (tmp_path / "run").exists()
    small = ["--train.steps", "2", "--train.batch", "2", "--shapes.clips", "4"]
    good = start("--data", "moving-shapes", "--out", "run", "--train.workers", "0", *small)
    assert good.returncode == 0, good.stderr[-2000:]
    assert len(read_metrics(tmp_path / "run")) == 2
    assert good.stdout.count("report:") == 1
    uneven = start("--data", "moving-shapes", "--out", "odd", *small[:2], "--train.batch", "3")
    assert uneven.returncode == 2
    assert uneven.stderr.count("train.batch 3") == 1


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_devices_goes_on_when_a_process_is_killed(tmp_path: Path, rank: int) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    config = tiny_config(out, train={"steps": 12, "lr": 3.2e-2, "checkpoint_every": 4})
    save_config(config, tmp_path / "config.yaml")
    command = [*TWO, "--config", str(tmp_path / "config.yaml")]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=file, stdout=file)
        os.kill(wait_for_step(process, out, 5, rank), signal.SIGKILL)
        assert process.wait(timeout=400) == 0, log.read_text()
    assert "was ended by SIGKILL; going on from the last checkpoint" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert [line["step"] for line in read_metrics(out)] == list(range(1, 13))
    assert json.loads((out / "environment.json").read_text())["resumed"][0]["step"] >= 4


@pytest.mark.slow
def test_ctrl_c_saves_and_says_once_how_to_go_on(whole: Path, tmp_path: Path) -> None:
    """A terminal sends it to the launcher and all that are in its group."""
    out, log = tmp_path / "run", tmp_path / "log"
    save_config(config_of(out), tmp_path / "config.yaml")
    command = [*TWO, "--config", str(tmp_path / "config.yaml"), "--train.workers", "1"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(), stderr=file, stdout=file, start_new_session=True
        )
        wait_for_step(process, out, 2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=400) == 130, log.read_text()
    said, step = log.read_text(), len(read_metrics(out))
    assert 2 <= step < 12
    line = f"interrupted: saved after step {step} of 12; go on with: m3video pretrain --resume"
    assert said.count(line) == said.count("go on with") == 1, said
    assert said.count("m3video pretrain: interrupted") == 1
    assert "Traceback" not in said
    assert (out / "last").readlink() == Path(f"checkpoints/step-{step}")
    pretrain(config_of(out, resume=True))
    assert_alike(out, whole, 1e-5)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_ends_both(whole: Path, tmp_path: Path) -> None:
    """As on a full disk, by a limit that needs no rights; rank 0 alone writes."""
    largest = (whole / "last/optimizer.safetensors").stat().st_size
    out = tmp_path / "run"
    save_config(config_of(out), tmp_path / "config.yaml")
    ended = subprocess.run(
        [*TWO, "--config", str(tmp_path / "config.yaml")],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1)),
    )
    assert ended.returncode == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if line.startswith("m3video")]
    assert len(lines) == 1, ended.stderr
    for part in (
        "optimizer.safetensors: cannot be written: ",
        "File too large",
        "stopped after step 4, there is no checkpoint yet",
        "go on with: m3video pretrain --resume --out",
    ):
        assert part in lines[0]
