"""The verbs `embed`, `search` and `browse`: features of videos, and what is found with them."""

from __future__ import annotations

import json

from m3video.cli.parse import parse
from m3video.config import BrowseConfig, EmbedConfig, SearchConfig


def embed(arguments: list[str]) -> int:
    """Turn videos into features: one row a video or a clip, as parquet, npz or zarr."""
    config = parse(EmbedConfig, arguments, verb="embed")
    from m3video.find.embed import embed, unreadable_list

    done = embed(config)
    shape = "×".join(map(str, done.shape))
    print(f"{done.rows} rows of {shape} {config.dtype}: {done.out}")
    if done.was_there:
        print("it was there already, and videos were not looked at again: remove it to embed anew")
    if done.unreadable:
        print(f"{len(done.unreadable)} videos unreadable: {unreadable_list(done.out)}")
    return 0


def search(arguments: list[str]) -> int:
    """Find the videos or clips that are most like one, in a features file."""
    config = parse(SearchConfig, arguments, verb="search")
    from m3video.find.search import format_found, search

    found = search(config)
    print(json.dumps(found, indent=2) if config.as_json else format_found(found))
    return 0


def browse(arguments: list[str]) -> int:
    """Look at a features file in the browser: clips, a map of them, and what is alike."""
    config = parse(BrowseConfig, arguments, verb="browse")
    from m3video.find.browse import browse

    browse(config)
    return 0
