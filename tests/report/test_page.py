"""The page: it holds what the run says, nothing from outside, and no markup of others."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from m3video.errors import CheckpointError
from m3video.model.checkpoint import read_tensors
from m3video.report.facts import read_run_config
from m3video.report.legend import score_rows
from m3video.report.page import write_report
from m3video.report.samples import load_run_model, sample_clips
from m3video.report.scores import scores

VOID = {"meta", "link", "br", "img", "input", "hr"}
LOADING = {"src", "href", "srcset", "poster", "data", "action", "formaction", "xlink:href"}


class Parsed(HTMLParser):
    """Tags, what they would load, and the visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.loads += [value or "" for name, value in attrs if name in LOADING]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.loads += [value or "" for name, value in attrs if name in LOADING]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(run: Path) -> Parsed:
    path = write_report(run)
    assert path == run / "report.html"
    return Parsed(path.read_text(encoding="utf-8"))


def test_page_holds_all_parts_and_is_well_formed(full_page: Path) -> None:
    page = Parsed(full_page.read_text())
    assert page.open == []
    assert page.tags.count("h1") == 1
    for words in (
        "videos <i>run</i>",
        "Loss of trajectory hog",
        "Learning rate",
        "Pixels",
        "Flow",
        "MBH on the grid",
        "HOG along trajectories",
        "Truth Prediction Difference Error",
        "explained",
        "saying that nothing moves would be",
        "Colour wheel",
        "px a step",
        "2 × variance",
        "58.0 %",
        "chance 8.3 %",
        "62.5 %",
        "decoder_width: 96",
        "Unreadable videos (1)",
        "Predicted by the checkpoint of step 2.",
    ):
        assert words in page.text, words
    assert page.tags.count("video") == 4 * (2 + 3 * 4 + 6 * 3)
    assert page.tags.count("article") == 4
    assert full_page.stat().st_size < 6e6


def test_page_loads_nothing_from_outside(full_page: Path) -> None:
    page = Parsed(full_page.read_text())
    text = full_page.read_text()
    assert page.loads
    assert [url[:40] for url in page.loads if not url.startswith("data:")] == []
    assert re.findall(r"url\((?!data:)", text) == []
    assert "@import" not in text
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert re.findall(r"https?:|//[a-z]+\.", outside) == []
    assert ("content", "default-src 'none'") in [
        (name, value.split(";")[0]) for name, value in page.attributes
    ]


def test_names_from_outside_are_text_and_never_markup(full_page: Path) -> None:
    page = Parsed(full_page.read_text())
    assert page.tags.count("script") == 1
    assert not {"b", "i", "u", "br"} & set(page.tags)
    assert "img" not in page.tags
    assert "<script>alert(1)<br>.mp4" in page.text
    assert "broken <b>.mp4" in page.text
    assert "motion <img src=x>" in page.text
    assert "left <u>" in page.text
    handlers = [name for name, _ in page.attributes if name.startswith("on")]
    assert handlers == []


def test_every_film_has_a_text_for_those_who_do_not_see_it(full_page: Path) -> None:
    page = Parsed(full_page.read_text())
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert sum(label.startswith("Prediction: Trajectories, ") for label in labels) == 4


def test_pixels_alone_have_no_motion_on_the_page(pixels_run: Path) -> None:
    page = report(pixels_run)
    assert "Truth Prediction Difference Error" in page.text
    assert "takes those from the true clip" in page.text
    shown, _ = page.text.split("How it was made")
    assert "trajector" not in shown
    assert "Colour wheel" not in shown
    assert "px" not in shown
    assert "never seen" in page.text
    assert page.tags.count("video") == 4 * (2 + 4)


def test_scores_of_the_page_are_those_of_its_clips(pixels_run: Path) -> None:
    samples = sample_clips(pixels_run, read_run_config(pixels_run), count=4).clips
    found = scores([sample.outcomes for sample in samples])["pixel"]
    assert found.explained is not None
    (row,) = score_rows(samples)
    assert row.explained == f"{100 * found.explained:.1f} %".replace("-", "−")
    assert f"Pixels {row.explained} {row.tokens}" in report(pixels_run).text


def test_a_report_repeats_itself(pixels_run: Path) -> None:
    def without_films() -> str:
        return re.sub(r"base64,[^\"]+", "", write_report(pixels_run).read_text())

    assert without_films() == without_films()
    config = read_run_config(pixels_run)
    once, again = (sample_clips(pixels_run, config, count=2).clips for _ in range(2))
    for one, other in zip(once, again, strict=True):
        assert (one.frames == other.frames).all()
        assert (one.hidden == other.hidden).all()
        assert (one.reconstruction == other.reconstruction).all()


def test_random_state_is_left_alone(pixels_run: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    write_report(pixels_run)
    assert torch.equal(torch.rand(3), wanted)


def test_no_checkpoint_is_said(unseen_run: Path) -> None:
    page = report(unseen_run)
    assert "There is no checkpoint yet" in page.text
    assert "Loss of trajectory" in page.text
    assert "video" not in page.tags


def test_videos_that_are_gone_are_named(videos_run: Path) -> None:
    manifest = videos_run / "manifest.csv"
    text = manifest.read_text().replace("one.mp4", "moved.mp4").replace("two.mp4", "lost.mp4")
    manifest.write_text(text)
    samples = sample_clips(videos_run, read_run_config(videos_run), count=4)
    assert len(samples.clips) == 3
    gone = [note for note in samples.notes if note.startswith("Cannot be read: ")]
    assert {re.findall(r"(\w+\.mp4): ", note)[0] for note in gone} == {"moved.mp4", "lost.mp4"}


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_a_lost_manifest_is_said(videos_run: Path, damage: str) -> None:
    manifest = videos_run / "manifest.csv"
    manifest.unlink() if damage == "missing" else manifest.write_text("path,frames\n,\n")
    page = report(videos_run)
    assert "No clips can be shown" in page.text
    assert "video" not in page.tags


def test_an_interrupted_run_says_how_to_go_on(unseen_run: Path) -> None:
    config = unseen_run / "config.yaml"
    config.write_text(config.read_text().replace("  steps: 2\n", "  steps: 50\n"))
    page = report(unseen_run)
    assert "At step 2 of 50: still going, or interrupted." in page.text
    assert "--resume" in page.text


def test_losses_that_were_not_finite_are_marked(unseen_run: Path) -> None:
    path = unseen_run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bad = {**rows[-1], "step": 3, "loss": None, "loss/trajectory": None, "bad_steps": 1}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, bad]))
    page = report(unseen_run)
    assert "Red dots on the axis" in page.text
    assert "Bad steps 1" in page.text
    for row in rows:
        row |= {"loss": None, "loss/trajectory": None}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "No step had a finite loss." in report(unseen_run).text


def test_no_metrics_are_said(unseen_run: Path) -> None:
    (unseen_run / "metrics.jsonl").unlink()
    assert "No metrics were written" in report(unseen_run).text


def test_long_lists_of_unreadable_videos_are_cut_and_counted(unseen_run: Path) -> None:
    lines = ["path,reason"] + [f"video-{index:03}.mp4,gone" for index in range(70)]
    (unseen_run / "unreadable.csv").write_text("\n".join(lines))
    text = report(unseen_run).text
    assert "Unreadable videos (70)" in text
    assert "video-049.mp4" in text
    assert "video-050.mp4" not in text
    assert "The first 50 of 70" in text


def test_broken_probe_files_are_left_out(unseen_run: Path) -> None:
    (unseen_run / "probe-a.json").write_text("{")
    (unseen_run / "probe-b.json").write_text('{"linear": 0.5}')
    (unseen_run / "comparison.json").write_text('{"bars": {}}')
    assert "What the frozen features know" not in report(unseen_run).text


def test_a_folder_that_is_no_run_gets_no_report(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run directory"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_model_of_a_run_has_the_weights_of_its_checkpoint(videos_run: Path) -> None:
    model, config = load_run_model(videos_run)
    saved = read_tensors(videos_run / "last" / "model.safetensors")
    assert model.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert set(config.targets.active) == set(type(config.targets).model_fields)


def test_a_damaged_checkpoint_is_one_clear_line(videos_run: Path) -> None:
    (videos_run / "last" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        write_report(videos_run)
