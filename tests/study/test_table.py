"""The numbers of a study by hand, and the files that hold them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from m3video.study.grid import Study, open_study
from m3video.study.table import (
    mean_and_error,
    measures,
    numbers,
    row_of,
    sections,
    table_csv,
    table_markdown,
    unfinished_rows,
    write_study,
)
from tests.study.nano import nano

ACCURACIES = {("a", 0): 0.50, ("a", 1): 0.56, ("a", 2): 0.65, ("b", 0): 0.25}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    cells = {
        "b": {"seeds": [0], "group": "Others"},
        "a": {"recipe": "videomae-tiny"},
        "broken": {"seeds": [0]},
    }
    return open_study(nano(name="A & B", seeds=[0, 1, 2], cells=cells), tmp_path)


def made_rows(study: Study) -> list[dict[str, Any]]:
    rows = []
    for task in study.tasks:
        accuracy = ACCURACIES.get((task.cell, task.seed))
        if accuracy is None:
            rows.append(row_of(task, None, "no memory <left>"))
            continue
        result = {
            "probe": {
                "linear": accuracy,
                "knn": accuracy / 2,
                "chance": 0.08,
                "by_texture": {"noise": accuracy + 0.1, "photo": accuracy - 0.1},
            },
            "finetune": {"100": 0.9, "20": 0.7} if task.cell == "a" else {},
            "loss": {"loss": 1.0},
            "seconds": 100.0 + task.seed,
            "parts": {},
            "versions": {"packages": {"torch": "2"}, "python": "3.11", "started": "now"},
        }
        rows.append(row_of(task, result, None))
    return rows


def test_mean_and_standard_error_by_hand() -> None:
    three = mean_and_error([0.50, 0.56, 0.65], 3)
    assert three.mean == pytest.approx(0.57)
    # Deviations −7, −1, 8 hundredths: variance 114 / 2 = 57, error √57 / √3 = √19 hundredths.
    assert three.error == pytest.approx(0.01 * 19**0.5)
    assert three.error == pytest.approx(np.std([0.50, 0.56, 0.65], ddof=1) / 3**0.5)
    assert three.text == "57.0 ± 4.4"
    one = mean_and_error([0.25], 1)
    assert (one.error, one.text) == (None, "25.0")
    assert mean_and_error([0.25], 2).text == "25.0 (1 of 2)"
    assert mean_and_error([0.2, 0.3], 3).text == "25.0 ± 5.0 (2 of 3)", "a seed is missing"


def test_a_line_a_cell_a_section_a_group_in_the_studys_order(study: Study) -> None:
    parts = sections(study, made_rows(study))
    assert [(part.title, [line.cell for line in part.lines]) for part in parts] == [
        ("", ["a", "broken"]),
        ("Others", ["b"]),
    ], "those of no group stand under no heading"
    line = parts[0].lines[0]
    assert line.values["linear"].text == "57.0 ± 4.4"
    assert line.values["linear/photo"].mean == pytest.approx(0.47)
    assert line.values["finetune/20"].text == "70.0 ± 0.0"
    assert line.runs == [(str(n), f"cells/a-s{n}/result.json") for n in range(3)]
    assert line.seconds == 101
    assert parts[0].lines[1].failed == [("0", "no memory <left>")]


def test_a_seed_that_failed_is_missing_from_the_mean_and_the_table_says_so(study: Study) -> None:
    rows = made_rows(study)
    rows[1] = row_of(study.tasks[1], None, "why")
    line = sections(study, rows)[0].lines[0]
    assert line.values["linear"].text == "60.5 ± 4.5 (2 of 3)"
    assert line.runs[0] == ("0", "cells/a-s0"), "a failed run has no result to link to"


def test_the_table_links_each_line_to_its_runs_and_names_chance(study: Study) -> None:
    rows = made_rows(study)
    text = table_markdown("A & B", rows, sections(study, rows))
    assert "Chance: 8.0 %" in text
    header = next(line for line in text.splitlines() if "linear probe" in line)
    assert [part.strip() for part in header.split("|")[2:-1]] == [
        *("linear probe", "linear, noise", "linear, photo", "k-NN"),
        *("fine-tuned, 20 a class", "fine-tuned, 100 a class", "time", "runs"),
    ]
    assert (
        "| a | 57.0 ± 4.4 | 67.0 ± 4.4 | 47.0 ± 4.4 | 28.5 ± 2.2 | 70.0 ± 0.0 | 90.0 ± 0.0 "
        "| 1 min 41 s | [0](cells/a-s0/result.json), [1](cells/a-s1/result.json), "
        "[2](cells/a-s2/result.json) |"
    ) in text
    b = "cells/b-s0/result.json"
    assert f"| b | [25.0]({b}) | [35.0]({b}) | [15.0]({b}) | [12.5]({b}) | – | – |" in text
    assert f"| [1 min 40 s]({b}) | [0]({b}) |" in text
    assert "| broken | – | – | – | – | – | – | – | [0](cells/broken-s0) failed |" in text
    assert "- broken, seed 0: no memory <left>" in text


def test_csv_and_json_hold_every_run(study: Study) -> None:
    rows = made_rows(study)
    write_study(study, rows, "name: x <y>")
    found = json.loads((study.out / "study.json").read_text())
    assert found["name"] == "A & B"
    assert found["chance"] == 0.08
    assert found["rows"] == rows
    assert all(
        {"cell", "seed", "probe", "finetune", "seconds"} <= row.keys() for row in found["rows"]
    )
    assert found["rows"][-1]["failed"] == "no memory <left>"
    lines = list(csv.DictReader(io.StringIO((study.out / "study.csv").read_text())))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert (line["cell"], line["seed"]) == (row["cell"], str(row["seed"]))
        for key, value in numbers(row).items():
            assert float(line[key]) == pytest.approx(value, abs=1e-6)
    assert lines[-1]["failed"] == "no memory <left>"
    assert table_csv(rows) == (study.out / "study.csv").read_text()


def test_the_plot_shows_every_cell_best_first_with_its_errors(study: Study) -> None:
    cells: dict[str, Any] = {"low": {}, "high": {}, "nothing": {}}
    study = open_study(nano(name="A & B", seeds=[0, 1], cells=cells), study.out)
    rows = []
    for task in study.tasks:
        accuracy = {"low": 0.2, "high": 0.6}.get(task.cell)
        probe = {"linear": (accuracy or 0) + 0.1 * task.seed, "knn": 0.1, "chance": 0.08}
        result = {"probe": probe, "finetune": {}, "seconds": 1.0}
        rows.append(row_of(task, result if accuracy else None, None if accuracy else "why"))
    write_study(study, rows, "")
    tree = ElementTree.fromstring((study.out / "plot.svg").read_text())
    words = [e.text for e in tree.iter("{http://www.w3.org/2000/svg}text")]
    assert "A & B" in words
    assert words.index("high") < words.index("low")
    assert "nothing" not in words
    marks = [
        e for e in tree.iter("{http://www.w3.org/2000/svg}g") if e.get("class") == "m0"
    ]  # the legend, then a mark a cell
    titles = [e.findtext("{http://www.w3.org/2000/svg}title") for e in marks]
    assert titles == [None, "high, linear: 65.0 ± 5.0 %", "low, linear: 25.0 ± 5.0 %"]
    bar = marks[1].find("{http://www.w3.org/2000/svg}path")
    dot = marks[1].find("{http://www.w3.org/2000/svg}circle")
    assert bar is not None
    assert dot is not None
    begin, end = (float(x) for x in re.findall(r"[MH]([\d.]+)", bar.get("d", "")))
    assert begin < float(dot.get("cx", "")) < end
    assert (begin + end) / 2 == pytest.approx(float(dot.get("cx", "")), abs=0.1)


def test_the_page_needs_nothing_else_and_escapes_what_comes_from_outside(study: Study) -> None:
    write_study(study, made_rows(study), "name: x <y>")
    page = (study.out / "study.html").read_text()
    assert "no memory &lt;left&gt;" in page
    assert "name: x &lt;y&gt;" in page
    assert "A &amp; B" in page
    assert 'href="cells/a-s2/result.json"' in page
    assert '<a href="cells/b-s0/result.json">25.0</a>' in page, "a number of one run is a link"
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page


def test_attentive_and_few_shot_accuracies_have_columns_of_their_own(study: Study) -> None:
    row = made_rows(study)[0]
    few = {"mean": 0.3, "error": 0.01, "accuracies": [0.29, 0.31]}
    row["probe"] |= {"attentive": 0.4, "few_shot": {"linear": {"5": few}, "knn": {"5": few}}}
    assert numbers(row)["attentive"] == 0.4
    assert numbers(row)["few/5"] == 0.3
    titles = [title for _, title in measures([row])]
    assert titles.index("linear, 5 a class") < titles.index("attentive probe")
    write_study(study, [row], "")
    assert "attentive probe" in (study.out / "table.md").read_text()


def test_a_study_without_results_is_a_page_too(study: Study) -> None:
    write_study(study, [], "")
    assert measures([]) == []
    assert "0 of 5 runs are finished" in (study.out / "study.html").read_text()


def test_failures_of_an_earlier_call_are_kept_until_the_cell_is_finished(study: Study) -> None:
    write_study(study, made_rows(study), "")
    assert unfinished_rows(study.out, study) == {"broken-s0": "no memory <left>"}
    path = study.out / "study.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({"rows": [*found["rows"], {"failed": "of no run"}, 7]}))
    assert unfinished_rows(study.out, study) == {"broken-s0": "no memory <left>"}
    result = study.tasks[-1].result
    result.parent.mkdir(parents=True)
    result.write_text("{}")
    assert unfinished_rows(study.out, study) == {}
