"""The attentive probe: it finds what one token says, and one pass fits what separate ones do."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from m3video.config import ClipConfig, ProbeConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import save_model
from m3video.model.vit import VisionTransformer
from m3video.train.attentive import AttentiveClassifier, AttentivePool, AttentiveProbe
from m3video.train.evaluate import evaluate_features
from m3video.train.features import Features, extract_features
from m3video.train.linear import GridPoint
from m3video.train.probe import format_result, probe, probe_metadata
from m3video.train.tokens import check_room, open_tokens, pack_tokens
from m3video.train.world import World
from m3video.video.augment import normalise
from m3video.video.loader import make_eval_loader
from m3video.video.moving_shapes import MovingShapes
from m3video.video.sampling import plan_clip

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)
CPU = torch.device("cpu")


def config(**changes: object) -> ProbeConfig:
    return ProbeConfig.model_validate(
        {"init": "x", "data": "y", "epochs": 5, "workers": 0, "device": "cpu", **changes}
    )


def small_encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=32, depth=1, heads=2
    ).eval()


def told_by_one_token(videos: int, *, tokens: int = 24, width: int = 16) -> Features:
    """Noise, but for one token of each video: a mark that all labels share, and a sign beside it.

    In the mean of all tokens, the sign is as small as the noise.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(videos, tokens, width, generator=generator)
    labels, every = torch.arange(videos) % 2, torch.arange(videos)
    place = torch.randint(tokens, (videos,), generator=generator)
    values[every, place, 0] = 12.0
    values[every, place, 1] = torch.where(labels == 1, 4.0, -4.0)
    return Features(values.mean(1), labels, every, [], clips=every, tokens=pack_tokens(values))


def test_what_one_token_says_is_found_and_no_mean_finds_it() -> None:
    features = told_by_one_token(700)
    split = [(torch.arange(500), torch.arange(500, 700))]
    settings = config(kinds=("linear", "attentive"), attentive_lr=(3e-3,), attentive_epochs=25)
    result = evaluate_features(features, split, names="ab", config=settings)
    assert result["attentive"] > 0.95
    assert result["linear"] < 0.8
    assert "knn" not in result
    assert result["attentive_chosen"] == [{"lr": 3e-3, "weight_decay": 0.05}]
    assert np.array(result["attentive_confusion"]).sum() == 200


def test_the_attention_is_that_of_torch() -> None:
    """A query that is the same for all clips is multiplied out beforehand."""
    torch.manual_seed(1)
    pool = AttentivePool(32, 4)
    oracle = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        for layer in (pool.q, pool.v, pool.proj):
            layer.bias.normal_()
        pool.query.normal_()
        oracle.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.k.weight, pool.v.weight]))
        oracle.in_proj_bias.copy_(torch.cat([pool.q.bias, torch.zeros(32), pool.v.bias]))
        oracle.out_proj.load_state_dict(pool.proj.state_dict())
    tokens = torch.randn(3, 10, 32)
    expected, _ = oracle(pool.query.expand(3, 1, 32), tokens, tokens)
    torch.testing.assert_close(pool(tokens), expected[:, 0], rtol=1e-4, atol=1e-5)


def prober(features: Features, **changes: object) -> AttentiveProbe:
    assert features.tokens is not None
    assert features.clips is not None
    return AttentiveProbe(
        features.tokens,
        features.clips,
        features.labels,
        classes=2,
        config=config(attentive_epochs=3, **changes),
        device=CPU,
    )


def test_many_rates_in_one_pass_equal_separate_fits() -> None:
    features = told_by_one_token(100)
    points = [GridPoint(3e-3, 0.0), GridPoint(1e-3, 0.5)]
    rows = torch.arange(90)
    together = prober(features).fit(rows, points)
    for point, model in zip(points, together, strict=True):
        (alone,) = prober(features).fit(rows, [point])
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-4, atol=1e-6)
    gap = together[0].head.weight - together[1].head.weight
    assert gap.abs().max() > 1e-3


def test_a_grid_of_one_is_plain_training() -> None:
    """The same by a loop of its own: AdamW, cosine, cross-entropy, shuffled batches."""
    features = told_by_one_token(100)
    settings = {"seed": 4, "attentive_lr": (2e-3,), "attentive_weight_decay": (0.1,)}
    probe = prober(features, **settings)
    (fitted,) = probe.fit(torch.arange(70), probe.grid)
    torch.manual_seed(4)
    model = AttentiveClassifier(16, 2)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=2e-3)
    generator = torch.Generator().manual_seed(4)
    assert features.tokens is not None
    tokens = torch.tensor(np.array(features.tokens)).float()
    step = 0
    for _ in range(3):
        order = torch.randperm(70, generator=generator)
        for part in (order[:64], order[64:]):
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * (1 + np.cos(np.pi * step / 6))
            step += 1
            optimiser.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(tokens[part]), features.labels[part])
            torch.autograd.backward(loss)
            optimiser.step()
    for name, value in fitted.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-4, atol=1e-6)


def test_a_video_is_the_mean_of_the_probabilities_of_its_clips() -> None:
    """Two clips that lean a little one way are outvoted by one that is sure of the other."""
    features = Features(
        torch.zeros(1, 1),
        torch.tensor([1]),
        torch.arange(1),
        [],
        clips=torch.tensor([0, 0, 0]),
        tokens=np.array([0.1, 0.1, -5.0], np.float16).reshape(3, 1, 1),
    )

    class Sign(torch.nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            value = tokens[:, 0, 0]
            return torch.stack([value, -value], dim=1)

    (found,) = prober(features)._predict([Sign()], torch.tensor([0]))
    assert found.tolist() == [1]


def test_kept_tokens_are_those_of_the_encoder(tmp_path: Path) -> None:
    source = MovingShapes(clips=6, clip=CLIP, plan=plan_clip(CLIP, 0), texture="noise", fixed=True)
    encoder = small_encoder()
    plain = extract_features(encoder, source, clip=CLIP, segments=2, batch=4, device=CPU)
    with open_tokens(tmp_path, clips=6, shape=(48, 32)) as keep:
        kept = extract_features(
            encoder, source, clip=CLIP, segments=2, batch=4, device=CPU, keep=keep
        )
        assert list(tmp_path.iterdir()) == [], "the file has no name"
        assert torch.equal(plain.values, kept.values), "the mean is what it was"
        assert kept.tokens is not None
        assert kept.tokens.dtype == np.float16
        assert kept.tokens.shape == (6, 48, 32)
        (clips,) = make_eval_loader(source, batch=6, workers=0)
        with torch.inference_mode():
            direct = encoder(normalise(clips.frames))
        spread = (direct - direct.mean(2, keepdim=True)) / direct.std(2, correction=0, keepdim=True)
        torch.testing.assert_close(
            torch.tensor(np.array(kept.tokens)).float(), spread, rtol=2e-3, atol=2e-3
        )
    assert kept.clips is not None
    assert kept.clips.tolist() == [0, 0, 1, 1, 2, 2]


def test_kept_tokens_teach_what_tokens_in_memory_do(tmp_path: Path) -> None:
    features = told_by_one_token(60)
    assert features.tokens is not None
    values = torch.tensor(np.array(features.tokens)).float()
    with open_tokens(tmp_path, clips=60, shape=(24, 16)) as keep:
        for part in values.split(25):
            keep.append(part)
        mapped = keep.read()
        assert isinstance(mapped, np.memmap)
        whole = pack_tokens(values)
        assert np.array_equal(mapped, whole)
        probes = [
            AttentiveProbe(
                tokens, torch.arange(60), features.labels, classes=2, config=config(), device=CPU
            )
            for tokens in (mapped, whole)
        ]
        first, second = (probe.fit(torch.arange(60), probe.grid[:1])[0] for probe in probes)
    assert torch.equal(first.head.weight, second.head.weight)


def test_values_too_large_for_float16_are_kept() -> None:
    packed = pack_tokens(torch.randn(4, 16) * 1e7)
    assert np.isfinite(packed).all()
    assert abs(packed).max() <= 4, "√D"


def test_a_full_disk_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    room = open_tokens(tmp_path, clips=10**9, shape=(1568, 768))
    with pytest.raises(ConfigError, match=r"keeps 2\d{6}\.\d GB of tokens"), room:
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("processes", "needed"), [(1, 160), (3, 256)])
def test_room_is_looked_for_for_the_files_of_all_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, needed: int
) -> None:
    """Ten clips of 16 bytes: rank 0 collects all, the others have three each until then."""
    world = World(0, processes)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed))
    check_room(tmp_path, 10, (4, 2), world)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=needed - 1))
    with pytest.raises(ConfigError, match="are free"):
        check_room(tmp_path, 10, (4, 2), world)


def test_moving_shapes_by_all_three_kinds(tmp_path: Path) -> None:
    save_model(small_encoder(), tmp_path / "model", CLIP)
    sizes = {
        "init": tmp_path / "model",
        "data": "moving-shapes",
        "train_clips": 26,
        "test_clips": 13,
        "batch": 16,
        "attentive_epochs": 1,
    }
    kinds = ("attentive", "linear", "knn")
    result = probe(config(**sizes, kinds=kinds, shots=(1,), draws=2))
    assert set(kinds) < result.keys()
    assert set(result["few_shot"]) == set(kinds)
    assert np.array(result["attentive_confusion"]).sum() == 13
    plain = probe(config(**sizes))
    for key in ("linear", "knn", "chosen", "confusion", "by_texture", "clips", "chance"):
        assert plain[key] == result[key], "the other kinds change nothing"
    assert "attentive" not in plain
    assert "few_shot" not in plain
    alone = probe(config(**sizes, kinds=("attentive",)))
    assert alone["attentive"] == result["attentive"]
    assert not {"linear", "knn", "confusion", "by_texture"} & alone.keys()
    lines = format_result(result).splitlines()
    assert lines[0].split() == ["all", "labels", "1", "a", "class"]
    assert [line.split("  ")[0] for line in lines[1:-1]] == [
        "linear probe",
        "attentive probe",
        "k-NN",
        "chance",
    ]
    assert f"{100 * result['attentive']:.1f} %" in lines[2]
    assert lines[-1] == "± is the standard error over 2 draws of the labelled videos"


def test_metadata_has_no_tokens(made_folder: Path) -> None:
    settings = config(data=str(made_folder), kinds=("knn", "attentive"), folds=2)
    result = probe_metadata(settings)
    assert "knn" in result
    assert "attentive" not in result
