"""Tokens -> predictions: the encoder, the masked autoencoder, and their weights on disk."""

from __future__ import annotations

from m3video.model.checkpoint import load_encoder, save_encoder
from m3video.model.masked_autoencoder import HeadSpec, MaskedAutoencoder, build_model
from m3video.model.vit import SIZES, VisionTransformer, build_encoder

__all__ = [
    "SIZES",
    "HeadSpec",
    "MaskedAutoencoder",
    "VisionTransformer",
    "build_encoder",
    "build_model",
    "load_encoder",
    "save_encoder",
]
