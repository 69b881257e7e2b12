"""The picture of the confusion: well-formed, every count in it, legible or not named at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from m3video.errors import CheckpointError
from m3video.report.confusion import confusion_svg, write_confusion

SVG = "{http://www.w3.org/2000/svg}"


def cells(svg: str) -> dict[str, str]:
    """Title → opacity of the coloured cells."""
    root = ElementTree.fromstring(svg)
    return {
        title.text or "": rect.attrib["fill-opacity"]
        for rect in root.iter(f"{SVG}rect")
        if "fill-opacity" in rect.attrib
        for title in rect.iter(f"{SVG}title")
    }


def test_cells_tell_counts_and_darken_with_the_share_of_their_row() -> None:
    svg = confusion_svg(["<cut>", "fly", "rest"], [[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    found = cells(svg)
    assert set(found) == {"<cut> → <cut>: 3 of 4", "<cut> → fly: 1 of 4", "fly → fly: 2 of 2"}
    assert float(found["<cut> → <cut>: 3 of 4"]) == pytest.approx(0.77)
    assert float(found["fly → fly: 2 of 2"]) == 1
    assert "rest: no videos" in svg
    shares = re.findall(r">(\d+)</text>", svg)
    assert shares == ["75", "25", "100"]


def test_right_and_wrong_have_different_colours() -> None:
    svg = confusion_svg(["a", "b"], [[1, 1], [0, 2]])
    root = ElementTree.fromstring(svg)
    colours = {
        title.text: rect.attrib["fill"]
        for rect in root.iter(f"{SVG}rect")
        for title in rect.iter(f"{SVG}title")
    }
    assert colours["a → a: 1 of 2"] == colours["b → b: 2 of 2"] != colours["a → b: 1 of 2"]


def test_many_classes_are_drawn_without_names() -> None:
    labels = [f"class {n}" for n in range(400)]
    svg = confusion_svg(labels, [[int(r == c) for c in range(400)] for r in range(400)])
    assert len(cells(svg)) == 400
    assert ">class 7<" not in svg
    width = float(ElementTree.fromstring(svg).attrib["width"])
    assert width < 1000


def test_the_file_is_drawn_beside_the_counts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"confusion\.json"):
        write_confusion(tmp_path)
    found = {"labels": ["a", "b"], "counts": [[1, 0], [0, 1]]}
    (tmp_path / "confusion.json").write_text(json.dumps(found))
    assert write_confusion(tmp_path).read_text() == confusion_svg(found["labels"], found["counts"])
