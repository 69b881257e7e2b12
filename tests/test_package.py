"""The names that the package offers, and that it is cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import m3video


def test_every_name_of_the_stub_is_there_and_documented() -> None:
    tree = ast.parse((Path(m3video.__file__).parent / "__init__.pyi").read_text())
    names = [alias.asname for node in tree.body for alias in node.names]  # type: ignore[attr-defined]
    assert set(names) == set(m3video.__all__)
    for name in set(names) - {"RECIPES"}:
        assert getattr(m3video, name).__doc__, name


def test_importing_the_package_or_asking_for_help_does_not_import_torch() -> None:
    code = (
        "import sys, m3video.cli; m3video.cli.main(['--help']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
