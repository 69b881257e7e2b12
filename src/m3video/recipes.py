"""The recipes: named, documented configs. A recipe is data, not a code path.

Each is what a paper or a release trains with; a name with `-tiny` is the same targets and mask on
64×64 clips with the `nano` encoder, for CPUs. Sources: VideoMAE arXiv 2203.12602 (section 4 and the
tables of the appendix), Masked Motion Encoding arXiv 2210.06096 (sections 3 and 4.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from m3video.config import PretrainConfig, one_line
from m3video.errors import ConfigError

Settings = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A named config: what it is, and its difference from the defaults."""

    summary: str
    settings: Settings


def merge(base: Settings, change: Settings) -> Settings:
    """`base` with `change` laid over it, dict by dict; neither is altered."""
    merged = dict(base)
    for key, value in change.items():
        inner = merged.get(key)
        merged[key] = (
            merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
        )
    return merged


# 40 of 400 epochs are warm-up; the learning rate is that of VideoMAE for all three.
_MME_BASE: Settings = {
    "mask": {"kind": "tube", "ratio": 0.7},
    "motion": {"flow": "dis", "length": 6, "seeds": 4},
    "model": {"size": "b", "decoder_width": 192, "decoder_depth": 1, "decoder_heads": 3},
    "train": {"epochs": 400, "warmup": 0.1},
}

_TINY: Settings = {
    # On frames this small OpenCV runs "fast" and "ultrafast" at full resolution, where both are
    # good, and "medium" at half, where it misses half of the motion.
    "motion": {"flow": "dis-ultrafast"},
    "clip": {"frames": 8, "stride": 2, "size": (64, 64), "patch": 8},
    "model": {"size": "nano", "decoder_width": 96, "decoder_depth": 1, "decoder_heads": 3},
    "train": {
        "batch": 16,
        "epochs": 30,
        "warmup": 0.05,
        "lr": 0.012,  # 7.5e-4 at batch 16; at twice that trajectories alone are not learned
        "workers": 1,
        "checkpoint_every": 200,
    },
}

RECIPES: dict[str, Recipe] = {
    "videomae": Recipe(
        "VideoMAE: normalised pixels, tube mask 0.9, decoder of 4 blocks.",
        {
            "mask": {"kind": "tube", "ratio": 0.9},
            "targets": {"pixel": {"weight": 1.0}},
            "model": {"size": "b", "decoder_width": 384, "decoder_depth": 4, "decoder_heads": 6},
            "train": {"epochs": 800, "warmup": 0.05},
        },
    ),
    "maskfeat": Recipe(
        "MaskFeat's target: HOG of three channels on a fixed grid, cubes of tokens hidden. Its own "
        "model has no decoder; here it is that of `mme`.",
        merge(
            _MME_BASE,
            {
                "mask": {"kind": "block", "ratio": 0.4},
                "targets": {"hog": {"weight": 1.0, "colour": "rgb"}},
            },
        ),
    ),
    "flow": Recipe(
        "Optical flow from each tubelet's first frame, down-sampled to cells.",
        merge(_MME_BASE, {"targets": {"flow": {"weight": 1.0}}}),
    ),
    "hof": Recipe(
        "Histograms of the direction of flow (dense trajectories' HOF).",
        merge(_MME_BASE, {"targets": {"hof": {"weight": 1.0}}}),
    ),
    "mbh": Recipe(
        "Motion boundary histograms: where flow changes (dense trajectories' MBH).",
        merge(_MME_BASE, {"targets": {"mbh": {"weight": 1.0}}}),
    ),
    "mme": Recipe(
        "Masked Motion Encoding as the paper describes it: where points go (displacements at the "
        "raw frame rate) and what they carry (HOG along the trajectory), tube mask 0.7.",
        merge(
            _MME_BASE,
            {
                "targets": {
                    "trajectory": {"weight": 1.0, "normalise": "none", "scale": 4.0},
                    "trajectory_hog": {"weight": 1.0},
                },
            },
        ),
    ),
    "mme-released": Recipe(
        "Masked Motion Encoding as its released code trains: displacements as z-scores of each "
        "patch, HOG of three channels on a fixed grid, MLP heads with Tanh and Sigmoid.",
        merge(
            _MME_BASE,
            {
                "targets": {
                    "hog": {"weight": 1.0, "colour": "rgb", "head": "mlp", "activation": "sigmoid"},
                    "trajectory": {
                        "weight": 1.0,
                        "normalise": "patch-std",
                        "head": "mlp",
                        "activation": "tanh",
                    },
                },
            },
        ),
    ),
    "trackmae": Recipe(
        "TrackMAE's targets: pixels and where points go, a decoder each; visible tokens are drawn "
        "half from what moves; every second point in x and y is followed, the others interpolated. "
        "The points follow our flow instead of CoTracker3.",
        {
            "mask": {"kind": "motion-bins", "ratio": 0.9, "high": 0.5},
            "motion": {"flow": "dis", "length": 6, "seeds": 4, "upsample": 2},
            "targets": {
                "pixel": {"weight": 1.0},
                "trajectory": {"weight": 1.0, "normalise": "none", "scale": 4.0},
            },
            "model": {
                "size": "b",
                "decoder_width": 384,
                "decoder_depth": 4,
                "decoder_heads": 6,
                "decoders": "per-target",
            },
            "train": {"epochs": 800, "warmup": 0.05},
        },
    ),
    "m3": Recipe(
        "Ours, chosen by a study of combinations: what `mme` predicts, a decoder each, behind "
        "TrackMAE's masks; every second point in x and y is followed, the others interpolated.",
        merge(
            _MME_BASE,
            {
                "mask": {"kind": "motion-bins", "ratio": 0.9, "high": 0.5},
                "motion": {"upsample": 2},
                "targets": {
                    "trajectory": {"weight": 1.0, "normalise": "none", "scale": 4.0},
                    "trajectory_hog": {"weight": 1.0},
                },
                "model": {"decoders": "per-target"},
            },
        ),
    ),
}


# What is measured in pixels, at a bit over a quarter of 224.
_TINY_PIXELS: Settings = {
    "hog": {"cell": 4},
    "flow": {"cell": 4, "clamp": 6.0, "scale": 1.5},
    "hof": {"cell": 4, "still": 0.12},
    "mbh": {"cell": 4},
    "trajectory": {"clamp": 6.0, "scale": 1.5},
    "trajectory_hog": {"cell": 4},
    "trajectory_hof": {"cell": 4, "still": 0.12},
    "trajectory_mbh": {"cell": 4},
}


def _tiny(settings: Settings) -> Settings:
    """Settings for 64×64 clips and a CPU: smaller cells, and motions of fewer pixels."""
    targets = {name: _TINY_PIXELS.get(name, {}) for name in settings["targets"]}
    if settings["targets"].get("trajectory", {}).get("normalise", "none") != "none":
        targets["trajectory"] = {}  # z-scores have no scale
    return merge(merge(settings, _TINY), {"targets": targets})


RECIPES.update(
    {
        f"{name}-tiny": Recipe(f"For CPUs, 64×64 clips. {recipe.summary}", _tiny(recipe.settings))
        for name, recipe in list(RECIPES.items())
    }
)


def recipe_config(
    name: str, *, data: str, out: Path, changes: Settings | None = None
) -> PretrainConfig:
    """The config of a recipe for some data, with changes laid over it.

    Args:
        name: a key of `RECIPES`.
        data: as `PretrainConfig.data`.
        out: the run directory.
        changes: nested settings that differ from the recipe's, e.g. `{"train": {"steps": 300}}`.

    Raises:
        ConfigError: unknown recipe, or settings that are not allowed.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe {name!r} is not known: use one of {', '.join(RECIPES)}")
    settings = merge(RECIPES[name].settings, changes or {})
    try:
        return PretrainConfig.model_validate({**settings, "data": data, "out": out})
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error
