"""The page in a real browser: it fits, its films load, its script runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from m3video.report.page import write_report
from tests.report.tuned_runs import classifier_run, evaluate_classifier

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

ASK = """
<script>
window.problems = [];
addEventListener("error", (event) => problems.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective));
</script>
"""
TELL = """
<script>
setTimeout(() => {
  const films = [...document.querySelectorAll("video")];
  for (const details of document.querySelectorAll("details")) details.open = true;
  const answer = {
    problems,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    inner: innerWidth,
    films: films.length,
    loaded: films.filter((film) => film.readyState >= 2 && film.videoWidth > 0).length,
    controls: document.querySelectorAll(".controls:not([hidden])").length,
    paper: getComputedStyle(document.body).backgroundColor,
  };
  parent.postMessage(JSON.stringify(answer), "*");
}, 2500);
</script>
"""

# A window cannot be narrower than 500 px, a frame can.
FRAME = """
<!doctype html><title>waiting</title>
<script>addEventListener("message", (event) => (document.title = "answer " + event.data));</script>
<iframe src="asked.html" style="width: {width}px; height: 1100px; border: 0"></iframe>
"""


def ask(page: Path, folder: Path, width: int, dark: bool) -> dict[str, object]:
    """Open a page in a fresh profile and read what it says about itself."""
    text = page.read_text(encoding="utf-8")
    copy = folder / "asked.html"
    copy.write_text(text.replace("<head>", "<head>" + ASK).replace("</body>", TELL + "</body>"))
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width))
    result = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--window-size=1400,1200",
            "--virtual-time-budget=8000",
            "--dump-dom",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"<title>answer (.*?)</title>", result.stdout)
    assert found is not None, result.stderr[-500:]
    answer: dict[str, object] = json.loads(unescape(found[1]))
    return answer


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (420, True)])
def test_page_fits_and_plays(full_page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    answer = ask(full_page, tmp_path, width, dark)
    assert answer["problems"] == []
    assert answer["inner"] == width
    assert answer["wide"] == 0
    assert answer["films"] == answer["loaded"] == 4 * 32
    assert answer["controls"] == 4
    light = [int(value) for value in re.findall(r"\d+", str(answer["paper"]))[:3]]
    assert (max(light) < 80) == dark


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (420, True)])
def test_page_of_a_classifier_fits_and_plays(tmp_path: Path, width: int, dark: bool) -> None:
    run = classifier_run(tmp_path / "ft")
    evaluate_classifier(run)
    answer = ask(write_report(run), tmp_path, width, dark)
    assert answer["problems"] == []
    assert answer["wide"] == 0
    assert answer["films"] == answer["loaded"] == 4
    assert answer["controls"] == 1
