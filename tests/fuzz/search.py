"""Search for bytes that break a reader, led by the lines that they reach: `search.py NAME SECONDS`.

An input that raises something else than the reader documents ends the search with a traceback and
is written to the folder of the search as `crash-…`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

from tests.fuzz.targets import TARGETS

INSTRUMENTED = ["m3video", "yaml", "csv", "zipfile", "numpy.lib._format_impl"]


def main(name: str, seconds: int, folder: Path) -> None:
    """Search for so long; the process then ends."""
    target = TARGETS[name]
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=INSTRUMENTED):
        seeds = target.seeds(folder)
        target(folder, seeds[0])
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-timeout=120", "-rss_limit_mb=4096"]
    prefix = f"-artifact_prefix={folder}/"
    # More than the seeds hold, since what a mutation adds must fit.
    longest = max(path.stat().st_size for path in corpus.iterdir())
    limit = f"-max_len={2 * longest + 64}"
    atheris.Setup(
        [sys.argv[0], *options, prefix, limit, "-print_final_stats=1", "-verbosity=1", str(corpus)],
        lambda data: target(folder, data),
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
