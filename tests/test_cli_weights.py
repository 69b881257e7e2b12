"""The verbs `import` and `export`: their help, what they print, and one line for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import m3video
from m3video.cli import main
from tests.model import official

SMALL = ["--frames", "16", "--size", "64", "64", "--heads", "3"]


@pytest.fixture
def official_file(tmp_path: Path) -> Path:
    """A small fine-tuned classifier of 7 classes, as VideoMAE's code saves it."""
    shapes = json.loads(official.GOLDEN.read_text())["videomae_finetune_tiny"]["shapes"]
    torch.save({"module": official.formula_weights(shapes)}, tmp_path / "ft.pth")
    return tmp_path / "ft.pth"


def test_weights_come_in_and_go_out(
    official_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, labels = tmp_path / "models" / "ft", tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\nf\ng\n")
    arguments = ["import", str(official_file), "--out", str(model), *SMALL]
    assert main([*arguments, "--labels", str(labels)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "classifier of 7 classes: width 48, depth 2, heads 3",
        "clips: 16 frames, 4 apart, of 64×64; tokens of 2×16×16",
        "used: 32 tensors",
        "left over: nothing",
        "missing, so zero: nothing",
        f"model: {model}",
    ]
    assert m3video.load_classifier(model).labels == tuple("abcdefg")
    copy = tmp_path / "copy"
    assert main(["export", str(model), "--out", str(copy)]) == 0
    assert capsys.readouterr().out == f"{copy}\n"
    assert (copy / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    program = tmp_path / "m.pt2"
    assert main(["export", str(model), "--out", str(program), "--format", "torch"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith(f"{program}\noutputs differ by ")
    assert told.err == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import", "nowhere.pth", "--out", "m"], "nowhere.pth: no such file or folder"),
        (["import", "bad.pth", "--out", "m"], "bad.pth: not a file of weights, or cut off"),
        (["import", ".", "--out", "m"], "a folder without config.json"),
        (["import", "bad.pth"], "--out"),
        (["import", "bad.pth", "--out", "bad.pth"], "out bad.pth: there is something already"),
        (["import", "bad.pth", "--out", "m", "--frames", "0"], "frames"),
        (["export", "nowhere", "--out", "x"], "nowhere: not there; give a run directory"),
        (["export", "nowhere", "--out", "x", "--format", "onnx"], "x must end in .onnx for format"),
        (["export", "nowhere", "--out", "x", "--format", "tf"], "tf"),
        (["export", "nowhere", "--out", "x", "--push", "me"], "push 'me' must be USER/NAME"),
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
    Path("bad.pth").write_bytes(b"not weights")
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith(f"m3video {arguments[0]}: ")
    assert words in told.err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


@pytest.mark.parametrize("verb", ["import", "export"])
def test_help_tells_the_options(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    told = capsys.readouterr().out
    for option in {"import": ["--labels", "--stride"], "export": ["--format", "--push"]}[verb]:
        assert option in told


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from m3video.cli import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'onnx', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
