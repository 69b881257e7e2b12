"""M³Video: self-supervised video learning by predicting the motion of what is hidden.

    frames = m3video.read_frames("cat.mp4", start=0, count=64)        # uint8 [S, H, W, 3]
    tracks = m3video.track(frames, length=6, spacing=8)               # Tracks
    encoder = m3video.load_encoder("runs/mme")                        # nn.Module
    tokens = encoder(m3video.to_clip(frames, encoder.clip))           # [1, N, D]

The verbs of the command line are functions too: `pretrain`, `probe`, `index`, `write_report`.
Names are imported when they are first used (`__init__.pyi` lists them), so that the command line
answers at once: torch alone takes seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
