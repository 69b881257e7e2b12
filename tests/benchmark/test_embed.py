"""The figures of `benchmark embed` are what they are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from m3video.benchmark import embed as module
from m3video.benchmark.embed import benchmark_embed, print_table
from m3video.config import ClipConfig
from m3video.errors import ConfigError
from tests.conftest import write_video


def test_rates_and_shares_fit_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "_CLIP", ClipConfig(frames=4, stride=3, size=(32, 48), patch=8))
    monkeypatch.setattr(module, "SIZES", ("nano",))
    write_video(tmp_path / "a.mp4")
    result = benchmark_embed(tmp_path, count=3)
    assert result["videos"] == 3
    assert not result["made"]
    rate = result["embed"]["nano"]
    assert rate > 0
    assert result["share"]["nano"] == pytest.approx(rate / result["decoding"])
    print_table(result)
    assert "embed, nano encoder" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="count 0"):
        benchmark_embed(tmp_path, count=0)
