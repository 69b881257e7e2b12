"""Data sets in the formats of their releases: lists to manifests, boxes, and what a flip does."""

from m3video.video.datasets.boxes import KeyFrame, read_boxes
from m3video.video.datasets.flip import flip_changes_labels
from m3video.video.datasets.index import FORMATS, SPLITS, DatasetName, index_dataset

__all__ = [
    "FORMATS",
    "SPLITS",
    "DatasetName",
    "KeyFrame",
    "flip_changes_labels",
    "index_dataset",
    "read_boxes",
]
