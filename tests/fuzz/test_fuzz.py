"""Readers of files of others raise what they document and nothing else, whatever the bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import FOUND, TARGETS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read_and_their_ruins_refused(name: str, tmp_path: Path) -> None:
    """Valid files, what once broke a reader, and a few hundred seeded ruins of the valid ones."""
    target = TARGETS[name]
    draw = random.Random(0)
    for data in target.seeds(tmp_path):
        target(tmp_path, data)
        for _ in range(30):
            ruin = bytearray(data)
            for _ in range(draw.choice((1, 1, 4))):
                ruin[draw.randrange(len(ruin))] = draw.randrange(256)
            target(tmp_path, bytes(ruin[: draw.choice((len(ruin), draw.randrange(len(ruin))))]))
    for data in FOUND.get(name, []):
        target(tmp_path, data)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_a_search_finds_nothing(name: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="extra fuzz")
    seconds = os.environ.get("M3VIDEO_FUZZ_SECONDS", "600")
    command = [sys.executable, "-m", "tests.fuzz.search", name, seconds, str(tmp_path / "search")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stderr[-4000:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "stat::number_of_executed_units" in done.stderr
