"""The Slurm template starts one run on two machines: here two processes that srun stands for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.tiny import read_metrics

TEMPLATE = Path(__file__).parents[1] / "docs/clusters/slurm.sbatch"

SCONTROL = """#!/bin/sh
[ "$1 $2 $3" = "show hostnames node[1-2]" ] || exit 1
printf 'localhost\\nlocalhost\\n'
"""
# Slurm starts the command once a machine and gives each its number.
SRUN = """#!/bin/sh
SLURM_NODEID=0 "$@" & one=$!
SLURM_NODEID=1 "$@" & two=$!
wait $one && wait $two
"""
TORCHRUN = """#!/bin/sh
exec {python} -m torch.distributed.run "$@"
"""


def programs(folder: Path) -> Path:
    """What the template calls."""
    folder.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN), ("torchrun", TORCHRUN)):
        (folder / name).write_text(text.format(python=sys.executable))
        (folder / name).chmod(0o755)
    return folder


def submit(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the template as Slurm would, on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = tmp_path / "slurm.sbatch"
    script.write_text(TEMPLATE.read_text().replace("29500", str(port)))
    variables = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_JOB_ID": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["bash", str(script), *options],
        env={**os.environ, **variables},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.slow
def test_two_machines_make_one_run_and_the_next_job_goes_on(tmp_path: Path) -> None:
    programs(tmp_path / "bin")
    small = ["--recipe", "flow-tiny", "--train.batch", "2", "--shapes.clips", "8"]
    small += ["--train.workers", "0", "--train.steps", "3"]
    first = submit(tmp_path, "moving-shapes", "run", *small)
    assert first.returncode == 0, first.stderr
    assert [line["step"] for line in read_metrics(tmp_path / "run")] == [1, 2, 3]
    assert first.stdout.count("report:") == 1
    again = submit(tmp_path, "moving-shapes", "run")
    assert again.returncode == 0, again.stderr
    assert "all 3 steps are done" in again.stderr


def test_the_template_says_what_is_missing(tmp_path: Path) -> None:
    programs(tmp_path / "bin")
    ended = submit(tmp_path)
    assert ended.returncode != 0
    assert "DATA" in ended.stderr
