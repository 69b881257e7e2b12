"""Fine-tuning: all weights learn, at the rates that the layers should, and the truth is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from m3video.config import ShortFinetuneConfig
from m3video.errors import DivergedError
from m3video.model.classifier import Classifier
from m3video.model.vit import VisionTransformer
from m3video.train.finetune import _batches, finetune, layer_groups, predict
from m3video.train.labelled import LabelledClips
from m3video.video.augment import normalise


def encoder(seed: int = 0) -> VisionTransformer:
    torch.manual_seed(seed)
    return VisionTransformer(
        frames=4, size=(16, 24), tubelet=2, patch=8, width=16, depth=3, heads=2
    )


def moving_bars(count: int, seed: int) -> LabelledClips:
    """A bright column that moves right (0) or left (1), from anywhere, over noise."""
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 60, (count, 4, 16, 24, 3), dtype=np.uint8)
    targets = np.arange(count, dtype=np.int64) % 2
    for clip, target in zip(frames, targets, strict=True):
        start = rng.integers(0, 24)
        for t in range(4):
            clip[t, :, (start + 6 * t * (1 - 2 * target)) % 24] = 255
    kinds = tuple("noise" if n < count // 2 else "photo" for n in range(count))
    return LabelledClips(frames, targets, ("right", "left"), kinds)


def config(**changes: object) -> ShortFinetuneConfig:
    return ShortFinetuneConfig.model_validate(
        {"lr": 0.05, "steps": 150, "layer_decay": 0.9, "weight_decay": 0.0, **changes}
    )


def test_it_learns_what_no_single_frame_tells() -> None:
    result = finetune(encoder(), moving_bars(64, 0), moving_bars(40, 1), config())
    assert result["accuracy"] > 0.85
    assert result["train_clips"] == 64
    assert result["test_clips"] == 40
    kinds = result["by_texture"]
    assert set(kinds) == {"noise", "photo"}
    assert (kinds["noise"] + kinds["photo"]) / 2 == pytest.approx(result["accuracy"])


def test_one_seed_is_one_result_and_another_is_another() -> None:
    def loss(seed: int) -> float:
        settings = config(steps=12, seed=seed)
        return float(finetune(encoder(), moving_bars(40, 0), moving_bars(8, 1), settings)["loss"])

    assert loss(0) == loss(0)
    assert loss(0) != loss(1)


def test_layers_learn_the_slower_the_deeper_they_lie() -> None:
    model = Classifier(encoder(), ("right", "left"))
    groups = layer_groups(model, layer_decay=0.5, weight_decay=0.1)
    scale = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert len(scale) == sum(1 for _ in model.parameters()), "every weight is in one group"
    assert scale[id(model.head.weight)] == scale[id(model.norm.bias)] == 1
    blocks = [scale[id(block.mlp.fc1.weight)] for block in model.encoder.blocks]  # type: ignore[union-attr]
    assert blocks == [0.125, 0.25, 0.5]
    assert scale[id(model.encoder.patch_embed.weight)] == 0.0625
    assert decay[id(model.head.weight)] == 0.1
    assert decay[id(model.head.bias)] == decay[id(model.norm.weight)] == 0


def test_the_first_update_is_of_the_rate_of_its_layer() -> None:
    """Adam's first step is ± its rate, whatever the gradient is."""
    torch.manual_seed(0)
    trained, before = encoder(), encoder()
    settings = config(lr=0.16, batch=16, steps=2, warmup=1.0, layer_decay=0.5)
    finetune(trained, moving_bars(32, 0), moving_bars(2, 1), settings)
    # The head starts at zero: in step 1 it alone learns; step 2 has the peak, 0.16 · 16 / 256.
    for depth, block in enumerate(trained.blocks):
        old = before.blocks[depth].mlp.fc1.weight  # type: ignore[union-attr]
        step = (block.mlp.fc1.weight - old).detach().abs().max()  # type: ignore[union-attr,operator]
        # One of two steps had a gradient: m / √v is (1 − β1) / √(1 − β2), bias-corrected.
        ratio = (0.1 / (1 - 0.9**2)) / (0.001 / (1 - 0.999**2)) ** 0.5
        assert float(step) == pytest.approx(0.01 * ratio * 0.5 ** (3 - depth), rel=0.02)


def test_batches_pass_over_all_clips_before_any_comes_again() -> None:
    batches = _batches(10, config(batch=4, steps=5))
    assert [len(rows) for rows in batches] == [4] * 5
    order = torch.cat(batches).tolist()
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10] != order[10:]


def test_predictions_are_the_models_largest_logit() -> None:
    clips, model = moving_bars(7, 0), Classifier(encoder(), ("a", "b", "c")).eval()
    torch.nn.init.normal_(model.head.weight)
    logits = model(normalise(torch.from_numpy(clips.frames)))
    assert predict(model, clips, batch=3).tolist() == logits.argmax(1).tolist()


def test_a_loss_that_is_not_finite_ends_it_in_one_line() -> None:
    with pytest.raises(DivergedError, match=r"fine-tuning: loss is not finite in step \d"):
        finetune(encoder(), moving_bars(8, 0), moving_bars(4, 1), config(lr=1e30, steps=9))
