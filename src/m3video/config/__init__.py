"""Every setting of a run: pydantic models that the command line, YAML files and recipes share.

The docstring below a field is its help text. Unknown keys are refused. A resolved config is saved
as `config.yaml` in the run directory and can be given back with `--config`.
"""

from m3video.config.base import Config, load_config, one_line, save_config
from m3video.config.clip import AugmentConfig, ClipConfig, MaskConfig, PretrainAugment
from m3video.config.detect import (
    DetectAugment,
    DetectEvaluateConfig,
    DetectTrain,
    DetectTrainConfig,
)
from m3video.config.embed import BrowseConfig, EmbedConfig, SearchConfig
from m3video.config.finetune import (
    EvaluateConfig,
    FinetuneAugment,
    FinetuneConfig,
    FinetuneTrain,
    LabelledShapesConfig,
    Sampling,
    ShortFinetuneConfig,
    ViewsConfig,
)
from m3video.config.motion import FLOW_NAMES, FlowName, MotionConfig
from m3video.config.pretrain import PretrainConfig, load_pretrain_config
from m3video.config.probe import ProbeConfig
from m3video.config.study import CellConfig, StudyConfig, StudyFinetune, load_study
from m3video.config.targets import (
    Activation,
    FlowConfig,
    HeadKind,
    HofConfig,
    HogConfig,
    HogSettings,
    MbhConfig,
    PixelConfig,
    TargetsConfig,
    TrajectoryConfig,
    TrajectoryHofConfig,
    TrajectoryHogConfig,
    TrajectoryMbhConfig,
)
from m3video.config.track import TrackConfig
from m3video.config.train import ModelConfig, ShapesConfig, TrainConfig
from m3video.config.weights import ExportConfig, ImportConfig

__all__ = [
    "FLOW_NAMES",
    "Activation",
    "AugmentConfig",
    "BrowseConfig",
    "CellConfig",
    "ClipConfig",
    "Config",
    "DetectAugment",
    "DetectEvaluateConfig",
    "DetectTrain",
    "DetectTrainConfig",
    "EmbedConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FinetuneAugment",
    "FinetuneConfig",
    "FinetuneTrain",
    "FlowConfig",
    "FlowName",
    "HeadKind",
    "HofConfig",
    "HogConfig",
    "HogSettings",
    "ImportConfig",
    "LabelledShapesConfig",
    "MaskConfig",
    "MbhConfig",
    "ModelConfig",
    "MotionConfig",
    "PixelConfig",
    "PretrainAugment",
    "PretrainConfig",
    "ProbeConfig",
    "Sampling",
    "SearchConfig",
    "ShapesConfig",
    "ShortFinetuneConfig",
    "StudyConfig",
    "StudyFinetune",
    "TargetsConfig",
    "TrackConfig",
    "TrainConfig",
    "TrajectoryConfig",
    "TrajectoryHofConfig",
    "TrajectoryHogConfig",
    "TrajectoryMbhConfig",
    "ViewsConfig",
    "load_config",
    "load_pretrain_config",
    "load_study",
    "one_line",
    "save_config",
]
