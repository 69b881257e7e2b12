"""Films hold the frames they are given; PyAV is the judge."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
import pytest

from m3video.errors import VideoError
from m3video.report import film


def played(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (33, 51)])
def test_film_has_all_frames_in_order(height: int, width: int) -> None:
    frames = np.zeros((7, height, width, 3), np.uint8)
    for index in range(7):
        frames[index] = 30 * index + 20
        frames[index, : height // 2] = (200, 30, 60)
    shown = played(film.encode_film(frames, 10))[:, :height, :width]
    assert shown.shape == frames.shape
    assert np.abs(shown.astype(int) - frames).mean() < 6


def test_film_is_small_and_of_a_kind_that_browsers_play() -> None:
    y, x = np.mgrid[:256, :256]
    frames = np.stack([np.stack([x + 4 * k, y, x + y], -1) for k in range(20)]).astype(np.uint8)
    content = film.encode_film(frames, 10)
    with av.open(io.BytesIO(content)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert float(stream.average_rate or 0) == 10
    assert len(content) < 400_000


def test_noise_stays_near_the_limit() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (40, 192, 256, 3), dtype=np.uint8)
    content = film.encode_film(frames, 10, limit=100_000)
    assert len(content) < 200_000
    assert len(played(content)) == 40


def test_no_encoder_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film, "CODEC", "no-such-codec")
    with pytest.raises(VideoError, match="no-such-codec"):
        film.encode_film(np.zeros((1, 8, 8, 3), np.uint8), 10)


def test_data_url_round_trip() -> None:
    url = film.data_url(b"\x00\xff<>", "video/mp4")
    head, _, body = url.partition(",")
    assert head == "data:video/mp4;base64"
    assert base64.b64decode(body) == b"\x00\xff<>"
