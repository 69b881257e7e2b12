"""The page in a real browser: previews play, clicks and keys work, names are text."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.find.chromium import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def address(clips_file: Path) -> Iterator[str]:
    """A server in a process of its own, on a free port."""
    command = [sys.executable, "-m", "m3video", "browse", str(clips_file)]
    with subprocess.Popen(
        [*command, "--port", "0", "--map", "pca"], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        found = re.match(r"(http://127\.0\.0\.1:\d+/)", server.stdout.readline())
        assert found is not None
        yield found[1]
        server.terminate()


@pytest.mark.parametrize(("width", "dark"), [(1360, False), (430, True)])
def test_the_page_is_used(address: str, tmp_path: Path, width: int, dark: bool) -> None:
    with Page(tmp_path, width=width, dark=dark) as page:
        page.open(address)
        page.wait("document.querySelectorAll('.card .strip.ready').length >= 2")
        assert page.ask("document.documentElement.scrollWidth") == width
        paper = page.ask("getComputedStyle(document.body).backgroundColor")
        assert (max(int(value) for value in re.findall(r"\d+", paper)[:3]) < 80) == dark

        # cards fill the pane, and no more than it needs
        bottom = "Math.max(...[...document.querySelectorAll('.card')].map((c) => c.offsetTop))"
        tall = "document.querySelector('.card').offsetHeight"
        end = page.ask(f"({bottom} + {tall}) - document.querySelector('#pane').clientHeight")
        cards = page.ask("document.querySelectorAll('.card').length")
        clips = page.ask("parseInt(document.querySelector('#count').textContent)")
        assert end > -100 or cards == clips

        # names are text, not markup
        assert "<b>" in page.ask("document.querySelector('.card .name').textContent")
        assert page.ask("document.querySelectorAll('.card b').length") == 0

        # pointing at a card plays its preview
        playing = "getComputedStyle(document.querySelector('.card img')).animationName"
        assert page.ask(playing) == "none"
        page.move(*page.middle(".card"))
        page.wait(f"{playing} === 'play'")

        # a click shows the clip and what is like it; other videos only, at first
        page.click(*page.middle(".card"))
        page.wait("/nearest, by cosine/.test(document.querySelector('#count').textContent)")
        names = "[...document.querySelectorAll('.card .name')].map((name) => name.textContent)"
        count = "parseInt(document.querySelector('#count').textContent)"
        others = page.ask(count)
        page.click(*page.middle("#others"))
        page.wait(f"{count} === {others + 2}")  # the video has three clips
        assert page.ask("location.hash") == "#clip=0"

        # Escape goes back to all, with the clip in focus; arrows and Enter go on from there
        page.key("Escape")
        page.wait("document.querySelector('#chosen').hidden")
        page.key("ArrowRight")
        page.key("Enter")
        page.wait("location.hash === '#clip=1'")
        page.ask("history.back()")
        page.wait("document.querySelector('#chosen').hidden")

        # a search
        page.key("/")
        page.send("Input.insertText", text="right 5-")
        page.wait(r"/^\d+ of \d+ clips$/.test(document.querySelector('#count').textContent)")
        assert all(name.startswith("5-") for name in page.ask(names))
        page.send("Input.insertText", text="zzz")
        page.wait("/Nothing is called/.test(document.querySelector('.empty')?.textContent)")
        assert page.problems == []


def test_a_dot_of_the_map_is_clicked(address: str, tmp_path: Path) -> None:
    with Page(tmp_path) as page:
        page.open(address)
        page.wait("document.querySelector('#kind')?.textContent === 'PCA'")
        page.wait("document.querySelectorAll('.card').length > 2")
        box = "document.querySelector('#map').getBoundingClientRect()"
        left, top, wide, tall = page.ask(f"(r => [r.x, r.y, r.width, r.height])({box})")
        places = page.ask("fetch('/map').then((answer) => answer.json())")
        scale = min(wide, tall) - 68
        x = left + wide / 2 + (places["x"][7] - 0.5) * scale
        y = top + tall / 2 + (places["y"][7] - 0.5) * scale
        page.move(x, y)
        page.wait("!document.querySelector('#tip').hidden")
        page.click(x, y)
        page.wait("/^#clip=/.test(location.hash)")
        row = int(page.ask("location.hash").removeprefix("#clip="))
        near = (places["x"][row] - places["x"][7]) ** 2 + (places["y"][row] - places["y"][7]) ** 2
        assert near * scale**2 < 9
        assert page.problems == []
