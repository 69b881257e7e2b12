"""Named settings of `finetune`, by data set.

Learning rates, epochs, sampling and views are those of Masked Motion Encoding (arXiv 2210.06096,
section 4.1 and its released scripts); batches those of VideoMAE's scripts. In all but `tiny`, 5
epochs are warm-up.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from m3video.config import FinetuneConfig, one_line
from m3video.errors import ConfigError
from m3video.recipes import Recipe, Settings, merge

TINY_WIDTH = 192
"""Encoders narrower than this are fine-tuned by `tiny`, where no recipe is named."""

FINETUNE_RECIPES: dict[str, Recipe] = {
    "kinetics": Recipe(
        "Kinetics: dense clips at stride 4, 75 epochs, 7×3 views.",
        {
            "stride": 4,
            "train": {"batch": 384, "lr": 1e-3, "epochs": 75, "warmup": 5 / 75},
            "views": {"segments": 7, "crops": 3},
        },
    ),
    "ssv2": Recipe(
        "Something-Something V2: a frame of each segment, 30 epochs, 2×3 views.",
        {
            "sampling": "segment",
            "train": {"batch": 512, "lr": 5e-4, "epochs": 30, "warmup": 5 / 30},
            "views": {"segments": 2, "crops": 3},
        },
    ),
    "ucf101": Recipe(
        "UCF101: dense clips at stride 4, 100 epochs, 10×3 views.",
        {
            "stride": 4,
            "train": {"batch": 128, "lr": 1e-3, "epochs": 100, "warmup": 0.05},
            "views": {"segments": 10, "crops": 3},
        },
    ),
    "hmdb51": Recipe(
        "HMDB51: as ucf101.",
        {
            "stride": 4,
            "train": {"batch": 128, "lr": 1e-3, "epochs": 100, "warmup": 0.05},
            "views": {"segments": 10, "crops": 3},
        },
    ),
    "tiny": Recipe(
        "Small encoders and data, on a CPU: 30 epochs of batches of 16, cropped and flipped, but "
        "not augmented further, which needs long training; 2×1 views.",
        {
            "augment": {"repeats": 1, "operations": 0, "erasing": 0, "mixup": 0, "cutmix": 0},
            "train": {
                "batch": 16,
                "lr": 0.024,  # 1.5e-3 at batch 16, chosen on held-out training clips
                "epochs": 30,
                "warmup": 0.1,
                "drop_path": 0,
                "workers": 1,
                "checkpoint_every": 200,
            },
            "views": {"segments": 2, "crops": 1},
        },
    ),
}


def finetune_config(
    name: str, *, init: Path, data: str, out: Path, changes: Settings | None = None
) -> FinetuneConfig:
    """The config of a recipe, with changes laid over it.

    Args:
        name: a key of `FINETUNE_RECIPES`.
        init: as `FinetuneConfig.init`.
        data: as `FinetuneConfig.data`.
        out: the run directory.
        changes: nested settings that differ from the recipe's.

    Raises:
        ConfigError: unknown recipe, or settings that are not allowed.
    """
    if name not in FINETUNE_RECIPES:
        known = ", ".join(FINETUNE_RECIPES)
        raise ConfigError(f"recipe {name!r} is not known: use one of {known}")
    settings = merge(FINETUNE_RECIPES[name].settings, changes or {})
    try:
        return FinetuneConfig.model_validate({**settings, "init": init, "data": data, "out": out})
    except ValidationError as error:
        raise ConfigError(one_line(error)) from error
