"""The verb `detect train`: an encoder learns what the people in boxes do.

- Clips around the key frames of `boxes.csv` (`detect_clips`), boxes as annotated; light
  augmentation, which the boxes go through, too.
- The run is kept, interrupted and resumed as a pre-training is (`loop`); `model/` is a detector.
- The key frames are kept with it as `boxes.csv`: a resumed run reads those, whatever became of
  `data`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from m3video.config import AugmentConfig, DetectTrainConfig
from m3video.errors import ConfigError
from m3video.model.checkpoint import load_encoder, save_model
from m3video.model.resize import fit_clips
from m3video.train.batches import Data
from m3video.train.detect_clips import TrainingKeyFrames
from m3video.train.detect_step import DetectorTrainer
from m3video.train.loop import Loop
from m3video.train.progress import say
from m3video.train.run import RunDirectory
from m3video.train.step import choose_device
from m3video.train.world import join, local_device
from m3video.video.datasets.boxes import KeyFrame, read_boxes, write_boxes
from m3video.video.datasets.flip import flip_changes_labels
from m3video.video.loader import Clips


def train_detector(config: DetectTrainConfig) -> Path:
    """Train a detector, and keep everything about it in the run directory `config.out`.

    Progress goes to stderr. Seeds torch's global generator.

    Returns:
        The run directory; its `model/` is what `load_detector` reads.

    Raises:
        ConfigError: `out` is taken, resuming with settings that differ, or no box to learn from.
        ManifestError: `data` cannot be understood.
        CheckpointError: nothing to resume, or `init` holds no encoder.
        DivergedError: the loss was not finite several steps in a row.
        RunFailedError: out of memory, or a data worker was killed.
        TooManyUnreadableError: more videos could not be read than `train.max_unreadable`.
        KeyboardInterrupt: Ctrl-C; the run is saved and can be resumed.
    """
    device = choose_device(local_device(config.train.device))
    world = join(device)
    console = world.console()
    run = RunDirectory(config.out)
    config = world.first(lambda: run.opened(config))
    kept = config.out / "boxes.csv"
    data = kept if config.resume else config.data
    frames = film_by_film([f for f in split_frames(data, config.split) if len(f.boxes)])
    if not frames:
        raise ConfigError(f"{config.data}: no key frame of split {config.split!r} has a box")
    labels = tuple(sorted({name for frame in frames for names in frame.labels for name in names}))
    resumed = config.resume and run.model.is_dir()
    encoder = load_encoder(run.model if resumed else config.init)
    encoder = fit_clips(encoder, frames=config.frames, size=config.size, stride=config.stride)
    flip = config.augment.flip == "on"
    if config.augment.flip == "auto":
        flip = not flip_changes_labels(labels)
    augment = AugmentConfig(scales=config.augment.scales, flip=flip)
    trainer = DetectorTrainer(config, encoder, labels, device, world)
    boxes = sum(len(frame.boxes) for frame in frames)
    say(console, f"{len(frames)} key frames with {boxes} boxes of {len(labels)} actions")
    return Loop(
        "detect train",
        config,
        run,
        trainer,
        Data(
            TrainingKeyFrames(frames, labels, encoder.clip, augment),
            _as_it_is,
            None,
            files=len({frame.path for frame in frames}),
        ),
        lambda weights: save_model(trainer.model, run.model, encoder.clip, weights),
        console,
        less="train.batch",
        describe=lambda: write_boxes(frames, kept),
        world=world,
    ).go()


def film_by_film(frames: Sequence[KeyFrame]) -> list[KeyFrame]:
    """The first key frame of each film, then the second of each, and so on.

    What cannot be read is replaced by what follows it, which must not be of the same film.
    """
    counts: Counter[Path] = Counter()
    places = []
    for number, frame in enumerate(frames):
        places.append((counts[frame.path], number))
        counts[frame.path] += 1
    return [frames[number] for _, number in sorted(places)]


def split_frames(data: Path, split: str) -> list[KeyFrame]:
    """The key frames of a split.

    Raises:
        ManifestError: `data` cannot be understood.
        ConfigError: there are none.
    """
    frames = read_boxes(data)
    found = [frame for frame in frames if frame.split == split]
    if not found:
        names = ", ".join(sorted({frame.split for frame in frames})) or "none"
        raise ConfigError(f"{data}: no key frames of split {split!r}; there are: {names}")
    return found


def _as_it_is(clip: Clips, generator: object) -> Clips:
    """Nothing is left to prepare."""
    return clip
