"""The demo: two runs, three probes, and what demo.json holds; `make demo` gives its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from m3video import demo as module
from m3video.config import ProbeConfig, load_pretrain_config
from m3video.demo import demo
from m3video.errors import ConfigError

LINEAR = {("motion", False): 0.5, ("pixel", False): 0.1, ("motion", True): 0.08}


def measured(config: ProbeConfig) -> dict[str, Any]:
    """A probe that takes no time."""
    linear = LINEAR[config.init.name, config.untrained]
    return {"linear": linear, "knn": linear / 2, "chance": 1 / 12}


def test_demo_compares_equal_budgets_and_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "probe", measured)
    write_report = module.write_report
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_report", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            demo(out=tmp_path / "demo", steps=1, workers=0)
    assert not (tmp_path / "demo" / "demo.json").exists()
    monkeypatch.setattr(module, "write_report", write_report)
    result = demo(out=tmp_path / "demo", steps=1, workers=0)
    assert json.loads((tmp_path / "demo" / "demo.json").read_text()) == result
    assert (result["motion"], result["pixel"], result["untrained"]) == (0.5, 0.1, 0.08)
    assert result["chance"] == 1 / 12
    assert result["seconds"] > 0
    runs = [load_pretrain_config(tmp_path / "demo" / name / "config.yaml") for name in module.RUNS]
    assert [list(run.targets.active) for run in runs] == [
        ["trajectory", "trajectory_hog"],
        ["pixel"],
    ]
    same = [{**run.train.model_dump(), **run.shapes.model_dump()} for run in runs]
    assert same[0] == same[1], "unequal budgets"
    assert "50.0 %" in (tmp_path / "demo" / "motion" / "report.html").read_text()
    assert "50.0%" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds a finished demo"):
        demo(out=tmp_path / "demo", steps=1, workers=0)
