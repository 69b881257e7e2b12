"""The verb `pretrain`: from videos to a pre-trained video transformer.

- Opens the data, builds the model, and has `loop` train it.
- Mask and target of a step, too, depend on the config and the step's number alone.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from m3video.config import PretrainConfig
from m3video.model.checkpoint import save_model
from m3video.motion.tracker import check_motion
from m3video.train.batches import Data, absolute
from m3video.train.checkpoint import load_init, part_of
from m3video.train.loop import Loop
from m3video.train.prepare import Prepare
from m3video.train.progress import say
from m3video.train.run import RunDirectory
from m3video.train.step import Trainer, choose_device
from m3video.train.world import World, join, local_device
from m3video.video.loader import ClipSource, VideoClips
from m3video.video.manifest import Manifest, load_manifest
from m3video.video.moving_shapes import MovingShapes
from m3video.video.sampling import ClipPlan, plan_run

MOVING_SHAPES = "moving-shapes"


def pretrain(config: PretrainConfig) -> Path:
    """Pre-train, and keep everything about it in the run directory `config.out`.

    Progress goes to stderr. Seeds torch's global generator.

    Returns:
        The run directory; its `model/` is what `load_encoder` reads.

    Raises:
        ConfigError: `out` is taken, or resuming with settings that differ.
        ManifestError: no readable video in `data`, or a list that cannot be understood.
        CheckpointError: nothing to resume, or `init` holds no weights that fit.
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
    plan = plan_run(config)
    check_motion(config)
    trainer = Trainer(config, plan, device, world)
    if config.init is not None and not config.resume:
        kept = load_init(trainer.model, config.init)
        if kept:
            parts = sorted({".".join(name.split(".")[:2]) for name in kept})
            say(console, f"--init {config.init}: not there, so not loaded: {', '.join(parts)}")
    source, manifest = _open_data(config, plan, run, console, world)
    data = Data(source, Prepare(config, plan), manifest)
    return Loop(
        "pretrain",
        config,
        run,
        trainer,
        data,
        lambda weights: save_model(
            trainer.model.encoder, run.model, config.clip, part_of(weights, "encoder.")
        ),
        console,
        less="train.batch, clip.size or model.size",
        world=world,
    ).go()


def _open_data(
    config: PretrainConfig, plan: ClipPlan, run: RunDirectory, console: Console, world: World
) -> tuple[ClipSource, Manifest | None]:
    """The clips to train on; unreadable files are named."""
    if config.data == MOVING_SHAPES:
        shapes = config.shapes
        clips = MovingShapes(
            clips=shapes.clips,
            clip=config.clip,
            plan=plan,
            texture=shapes.texture,
            flow=config.motion.flow == "exact" and config.needs_flow,
        )
        return clips, None
    if config.resume:
        manifest = world.first(lambda: load_manifest(run.manifest))
    else:
        # Decoding every frame of a large folder takes days: that is what `index` is for. What is
        # broken further on is met, named and counted while training.
        manifest = world.first(
            lambda: load_manifest(
                config.data, workers=config.train.workers, decode=False, progress=True
            )
        )
        for entry in manifest.unreadable:
            say(console, f"unreadable: {entry.path}: {entry.reason}")
        if manifest.unreadable:
            count = len(manifest.unreadable)
            say(console, f"{count} unreadable, {len(manifest.videos)} videos to train on")
    manifest = absolute(manifest)
    videos = VideoClips(
        manifest,
        clip=config.clip,
        plan=plan,
        augment=config.augment,
        repeats=config.augment.repeats,
        flow=config.motion.flow == "codec" and config.needs_flow,
    )
    return videos, manifest
