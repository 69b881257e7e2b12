"""The verb finetune: the whole recipe on a small encoder, and what a run of it leaves behind."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

import m3video
from m3video.config import ClipConfig, FinetuneConfig, load_config
from m3video.errors import CheckpointError, ConfigError
from m3video.model.checkpoint import load_classifier, load_encoder, read_tensors, save_model
from m3video.model.classifier import Classifier
from m3video.model.resize import resize_encoder
from m3video.model.vit import VisionTransformer
from m3video.recipes import merge
from m3video.train.classify import finetune
from m3video.train.classify_step import ClassifierTrainer
from m3video.train.mixing import draw_mix, mix_clips, mix_labels
from m3video.train.run import RunDirectory
from m3video.video.augment import normalise
from m3video.video.loader import Clips
from m3video.video.manifest import Manifest, Video, load_manifest, write_manifest
from tests.conftest import write_video
from tests.train.tiny import read_metrics, without_times

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)
SETTINGS: dict[str, Any] = {
    "augment": {"repeats": 2, "erasing": 0.5},
    "train": {
        "batch": 4,
        "steps": 6,
        "warmup": 0.5,
        "lr": 0.064,  # 1e-3 at batch 4
        "drop_path": 0.2,
        "ema": 0.8,
        "workers": 0,
        "checkpoint_every": 4,
        "device": "cpu",
    },
    "views": {"segments": 2, "crops": 1},
}


def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=16, depth=3, heads=2
    )
    model.clip = CLIP
    return model


@pytest.fixture
def init(tmp_path: Path) -> Path:
    """A model directory of a small encoder."""
    save_model(encoder(), tmp_path / "init", CLIP)
    return tmp_path / "init"


@pytest.fixture
def data(made_folder: Path) -> Path:
    """A manifest of six videos, of which the last of each class is for testing."""
    (made_folder / "right" / "broken.mp4").unlink()
    manifest = load_manifest(made_folder, labels_from_folders=True)
    videos = tuple(
        Video(**{**vars(v), "extra": {"split": "test" if v.path.stem == "2" else "train"}})
        for v in manifest.videos
    )
    write_manifest(Manifest(videos), made_folder / "manifest.csv")
    return made_folder / "manifest.csv"


def config_of(init: Path, data: Path | str, out: Path, **changes: Any) -> FinetuneConfig:
    settings = {**merge(SETTINGS, changes), "init": init, "data": str(data), "out": out}
    return FinetuneConfig.model_validate(settings)


def test_a_run_leaves_a_classifier_and_what_the_held_out_videos_gave(
    init: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(init, data, tmp_path / "run")
    run = m3video.finetune(config)
    said = capsys.readouterr().err
    assert "4 videos of 2 classes to train on, 2 held out (test)" in said
    assert "no clip is flipped: names of classes hold directions" in said
    assert load_config(FinetuneConfig, run / "config.yaml") == config
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 7))
    assert lines[0]["lr"] == pytest.approx(0.001 / 3)
    assert lines[2]["lr"] == pytest.approx(0.001)
    assert lines[5]["lr"] == pytest.approx(1e-6)
    model = load_classifier(run)
    assert model.labels == ("left", "right")
    assert model.encoder.clip == CLIP
    averaged = read_tensors(run / "last" / "model.safetensors")
    assert torch.equal(model.head.weight, averaged["average.head.weight"])
    assert not torch.equal(model.head.weight, averaged["head.weight"])
    assert model.head.weight.any(), "it has moved from zero, where the head starts"
    result = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert result["videos"] == 2
    assert result["views"] == {"segments": 2, "crops": 1, "sampling": "dense", "stride": 2}
    assert (run / "environment.json").exists()
    assert (run / "tensorboard").is_dir()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    step = ClassifierTrainer.step

    def interrupted(self: ClassifierTrainer, clips: Clips, at: int, rate: float) -> Any:
        if at == number:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, clips, at, rate)

    monkeypatch.setattr(ClassifierTrainer, "step", interrupted)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_interrupted_run_that_is_resumed_is_the_uninterrupted_one(
    init: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    workers: int,
) -> None:
    train = {"workers": workers}
    whole = finetune(config_of(init, data, tmp_path / "whole", train=train))
    config = config_of(init, data, tmp_path / "run", train=train)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            finetune(config)
    assert "go on with: m3video finetune --resume --out" in capsys.readouterr().err
    assert not (tmp_path / "run" / "evaluation").exists()
    init.rename(tmp_path / "gone")  # a run that has a checkpoint needs it no more
    run = finetune(config.model_copy(update={"resume": True}))
    assert without_times(read_metrics(run)) == without_times(read_metrics(whole))
    for name in ("last/model.safetensors", "last/optimizer.safetensors", "model/model.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("predictions.csv", "confusion.json"):
        there = (run / "evaluation" / name).read_text().replace(str(run), "")
        assert there == (whole / "evaluation" / name).read_text().replace(str(whole), "")


def test_resuming_with_other_settings_is_refused(init: Path, data: Path, tmp_path: Path) -> None:
    config = config_of(init, data, tmp_path / "run", train={"steps": 1})
    run = finetune(config)
    other = config_of(init, data, run, train={"steps": 1}, augment={"mixup": 0.1})
    with pytest.raises(ConfigError, match=r"augment\.mixup is 0\.1, the run in .* has 0\.8"):
        finetune(other.model_copy(update={"resume": True}))
    with pytest.raises(ConfigError, match="already holds a run"):
        finetune(config)


def trainer_of(**changes: Any) -> ClassifierTrainer:
    config = config_of(Path("i"), "d", Path("o"), **changes)
    return ClassifierTrainer(config, encoder(), ("a", "b", "c"), torch.device("cpu"))


def clips_of(videos: int, repeats: int) -> Clips:
    generator = torch.Generator().manual_seed(1)
    shape = (videos, repeats, 4, 32, 48, 3)
    return Clips(
        frames=torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        real=torch.ones(videos, 4, dtype=torch.bool),
        label=torch.arange(videos) % 3,
        index=torch.arange(videos),
        extras={"erased": torch.zeros(videos, repeats, 4, dtype=torch.int64)},
    )


def test_the_batch_is_every_sample_of_every_video_mixed_with_the_next_video() -> None:
    trainer, clips = trainer_of(), clips_of(3, 2)
    inputs, truth = trainer.batch(clips, 5)
    settings = trainer.config.augment
    mix = draw_mix(
        (32, 48),
        mixup=settings.mixup,
        cutmix=settings.cutmix,
        cutmix_share=settings.cutmix_share,
        rng=np.random.default_rng((0, 5)),
    )
    plain = normalise(clips.frames.flatten(0, 1))
    assert torch.equal(inputs, mix_clips(plain, plain.roll(-2, 0), mix))
    labels = torch.eye(3)[[0, 0, 1, 1, 2, 2]]
    assert torch.equal(truth, mix_labels(labels, labels.roll(-2, 0), mix))
    assert 0 < mix.share < 1
    again, _ = trainer.batch(clips, 5)
    assert torch.equal(inputs, again)
    other, _ = trainer.batch(clips, 6)
    assert not torch.equal(inputs, other)


def test_what_is_erased_is_noise_where_the_worker_drew_it() -> None:
    trainer, clips = trainer_of(augment={"mixup": 0, "cutmix": 0}), clips_of(2, 1)
    clips.extras["erased"][1, 0] = torch.tensor([4, 8, 10, 20])
    inputs, _ = trainer.batch(clips, 1)
    changed = (inputs != normalise(clips.frames.flatten(0, 1))).any(dim=(1, 2))
    assert not changed[0].any()
    assert changed[1, 4:14, 8:28].all()
    assert int(changed.sum()) == 200


def test_accumulated_micro_batches_are_the_whole_batch() -> None:
    """Skipped branches, too, are those of the whole batch."""
    weights = []
    for parts in (1, 2):
        trainer = trainer_of(train={"accumulate": parts, "drop_path": 0.5, "batch": 4})
        for number in (1, 2):
            result = trainer.step(clips_of(4, 2), number, 1e-3)
        assert result.finite
        weights.append(trainer.model.encoder.patch_embed.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], atol=2e-5, rtol=1e-3)


def test_a_step_that_is_not_finite_changes_nothing() -> None:
    trainer = trainer_of()
    trainer.step(clips_of(4, 2), 1, 1e-3)
    torch.nn.init.constant_(trainer.model.head.bias, float("inf"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert not trainer.step(clips_of(4, 2), 2, 1e-3).finite
    after = trainer.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_drop_path_is_on_in_training_and_the_average_is_what_is_tested() -> None:
    trainer = trainer_of()
    assert [block.drop_path for block in trainer.model.encoder.blocks] == pytest.approx(
        [0, 0.1, 0.2]
    )
    assert trainer.result is not trainer.model
    assert trainer_of(train={"ema": None}).result is not None
    plain = trainer_of(train={"ema": None})
    assert plain.result is plain.model
    parameters = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert parameters == {id(p) for p in trainer.model.parameters() if p.requires_grad}


def test_a_run_that_learns_nothing_says_so(
    init: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finetune(config_of(init, data, tmp_path / "still", train={"lr": 1e-9}))
    assert "nothing is learned yet: the loss, 0.69, is that of guess" in capsys.readouterr().err
    monkeypatch.setattr(RunDirectory, "losses", lambda run: [0.69, 0.3, 0.2, 0.2, 0.1, 0.1])
    finetune(config_of(init, data, tmp_path / "learns"))
    assert "nothing is learned" not in capsys.readouterr().err


def test_scratch_keeps_the_architecture_and_draws_the_weights(
    init: Path, data: Path, tmp_path: Path
) -> None:
    runs = [
        finetune(
            config_of(
                init,
                data,
                tmp_path / f"run-{seed}",
                scratch=True,
                train={"steps": 1, "seed": seed, "lr": 1e-9, "min_lr": 0, "ema": None},
            )
        )
        for seed in (1, 2)
    ]
    weights = [load_encoder(run).patch_embed.weight for run in runs]
    pretrained = load_encoder(init).patch_embed.weight
    assert not torch.allclose(weights[0], pretrained, atol=1e-3)
    assert not torch.allclose(weights[0], weights[1], atol=1e-3)


def test_a_stride_of_its_own_is_kept_with_the_model(init: Path, data: Path, tmp_path: Path) -> None:
    run = finetune(config_of(init, data, tmp_path / "run", stride=5, train={"steps": 1}))
    assert load_classifier(run).encoder.clip.stride == 5
    result = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert result["views"]["stride"] == 5


def test_clips_of_another_size_are_read_with_interpolated_positions(
    init: Path, data: Path, tmp_path: Path
) -> None:
    config = config_of(
        init, data, tmp_path / "run", frames=8, size=(40, 64), stride=1, train={"steps": 2}
    )
    run = finetune(config)
    tuned = load_classifier(run).encoder
    assert (tuned.clip.frames, tuned.clip.size, tuned.clip.stride) == (8, (40, 64), 1)
    wanted = resize_encoder(encoder(), tuned.clip).positions
    assert torch.equal(tuned.positions, wanted)
    finetune(config.model_copy(update={"resume": True}))
    assert torch.equal(load_classifier(run).encoder.positions, wanted)


def test_a_size_that_is_no_whole_patches_is_refused(init: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size"):
        finetune(config_of(init, data, tmp_path / "run", size=(30, 48)))
    assert not (tmp_path / "run").exists()


def test_without_a_split_all_are_trained_on_unless_a_share_is_held_out(
    init: Path, made_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finetune(config_of(init, made_folder, tmp_path / "all", train={"steps": 1}))
    said = capsys.readouterr().err
    assert "6 videos of 2 classes to train on, none held out" in said
    assert "broken.mp4" in said
    assert not (run / "evaluation").exists()
    held = config_of(init, made_folder, tmp_path / "held", val_share=0.3, train={"steps": 1})
    run = finetune(held)
    assert "4 videos of 2 classes to train on, 2 held out (val)" in capsys.readouterr().err
    with (run / "manifest.csv").open(newline="") as file:
        assert sorted(row["split"] for row in csv.DictReader(file)) == ["train"] * 4 + ["val"] * 2


def test_flips_are_on_where_no_name_holds_a_direction(
    init: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label in ("jump", "run"):
        write_video(tmp_path / "v" / label / "0.mp4")
    finetune(config_of(init, tmp_path / "v", tmp_path / "run", train={"steps": 1}))
    assert "no clip is flipped" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.mp4,x,train\nb.mp4,y,dev\n", "column split holds 'dev', 'train'"),
        ("a.mp4,x,test\nb.mp4,y,test\n", "no video that can be read has the split `train`"),
        ("a.mp4,x,train\nb.mp4,y,test\n", "all videos to train on have the label 'x'"),
        ("a.mp4,x,train\nb.mp4,x,train\n", "two or more labels"),
        (
            "a.mp4,x,train\nb.mp4,y,train\nc.mp4,,train\n",
            r"c\.mp4 is to be trained on, and has no label; give it",
        ),
    ],
)
def test_data_that_cannot_be_learned_from_is_one_line(
    init: Path, tmp_path: Path, rows: str, words: str
) -> None:
    facts = "".join(f"{row},9,25,48,32,1\n" for row in rows.splitlines())
    header = "path,label,split,frames,fps,width,height,duration\n"
    (tmp_path / "m.csv").write_text(header + facts)
    with pytest.raises(ConfigError, match=words):
        finetune(config_of(init, tmp_path / "m.csv", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_class_without_training_videos_is_told(
    init: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = data.read_text().splitlines()
    text = [
        line.replace(",right,", ",up,") if line.startswith("right/2") else line for line in lines
    ]
    data.write_text("\n".join(text) + "\n")
    finetune(config_of(init, data, tmp_path / "run", train={"steps": 1}))
    said = capsys.readouterr().err
    assert "4 videos of 2 classes to train on" in said
    assert "class 'up' has no training video: it cannot be learned" in said


def test_why_none_is_held_out_is_told(
    init: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(config_of(init, data.parent, tmp_path / "a", val_share=0.01, train={"steps": 1}))
    assert "none held out: --val-share 0.01 of each class is no whole" in capsys.readouterr().err
    data.write_text(data.read_text().replace(",test", ",train"))
    finetune(config_of(init, data, tmp_path / "b", train={"steps": 1}))
    assert "none held out: no labelled video that can be read" in capsys.readouterr().err


def test_nothing_to_begin_with_is_one_line(data: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not there"):
        finetune(config_of(tmp_path / "nothing", data, tmp_path / "run"))


def test_moving_shapes_and_the_number_of_labels(init: Path, tmp_path: Path) -> None:
    shapes = {"train_clips": 40, "test_clips": 3, "texture": "noise"}
    run = finetune(
        config_of(
            init,
            "moving-shapes",
            tmp_path / "run",
            labels=1,
            shapes=shapes,
            train={"steps": 1, "batch": 13},
        )
    )
    # A batch of 13 is one pass over 13 clips: one of each class.
    assert read_metrics(run)[-1]["epoch"] == 1
    result = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert result["videos"] == 3
    assert result["classes"] == 13
    with pytest.raises(ValueError, match="renders a test set of its own"):
        config_of(init, "moving-shapes", tmp_path / "x", val_share=0.2)


def test_a_classifier_can_be_tuned_again(init: Path, data: Path, tmp_path: Path) -> None:
    first = finetune(config_of(init, data, tmp_path / "first", train={"steps": 1}))
    second = finetune(config_of(first, data, tmp_path / "second", train={"steps": 1}))
    assert isinstance(load_classifier(second), Classifier)


@pytest.mark.slow
def write_bar(path: Path, step: int, start: int) -> None:
    """A bright bar on grey that moves `step` pixels a frame, around the edges."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(40):
            image = np.full((64, 96, 3), 40, np.uint8)
            image[:, (start + step * number + np.arange(12)) % 96] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def test_it_learns_which_way_things_move(init: Path, tmp_path: Path) -> None:
    """Left against right of a bar; no single frame tells."""
    for label, step in (("left", -6), ("right", 6)):
        for number in range(12):
            write_bar(tmp_path / "v" / label / f"{number}.mp4", step, 8 * number)
    config = config_of(
        init,
        tmp_path / "v",
        tmp_path / "run",
        val_share=0.25,
        augment={"repeats": 1, "mixup": 0, "cutmix": 0, "operations": 0, "erasing": 0},
        train={"steps": 80, "batch": 8, "lr": 0.1, "layer_decay": 0.9, "ema": None, "drop_path": 0},
        views={"segments": 3, "crops": 1},
    )
    run = finetune(config)
    result = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert result["top1"] == 1
    assert read_metrics(run)[-1]["loss"] < 0.3, "0.69 is a guess, 0.2 the least with smoothing"
