"""Tokens -> predictions: the encoder, the masked autoencoder, and their weights on disk."""

from __future__ import annotations

from m3video.model.checkpoint import load_classifier, load_encoder, load_model, save_model
from m3video.model.classifier import Classifier
from m3video.model.masked_autoencoder import HeadSpec, MaskedAutoencoder, build_model
from m3video.model.vit import SIZES, VisionTransformer, build_encoder

__all__ = [
    "SIZES",
    "Classifier",
    "HeadSpec",
    "MaskedAutoencoder",
    "VisionTransformer",
    "build_encoder",
    "build_model",
    "load_classifier",
    "load_encoder",
    "load_model",
    "save_model",
]
