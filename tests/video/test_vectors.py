"""Motion vectors of files against motion that is known, OpenCV's flow, and their own frames."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from m3video.errors import VideoError
from m3video.motion.flow import grey, make_flow
from m3video.video.augment import Crop
from m3video.video.orientation import Turn
from m3video.video.packets import h264_reference
from m3video.video.reader import VideoReader
from m3video.video.vector_reader import VectorReader
from m3video.video.vectors import (
    CELL,
    NO_BLOCKS,
    Canvas,
    FrameVectors,
    crop_motion,
    motion_between,
    pair_motion,
)
from tests.video.made_clips import write_clip
from tests.video.panned_clips import MOVES, write_pan

Made = Callable[[str], Path]
CLIPS = Path(__file__).parents[2].parent / "shared" / "data" / "clips"

FILES: dict[str, tuple[str, dict[str, str]]] = {
    "only_p.mp4": ("libx264", {"bf": "0", "g": "99"}),
    "b_frames.mp4": (
        "libx264",
        {"bf": "3", "b_strategy": "0", "g": "99", "x264-params": "b-pyramid=none"},
    ),
    "b_pyramid.mkv": ("libx264", {"g": "99"}),
    "only_p.avi": ("mpeg4", {"g": "99"}),
    "b_frames.mpg": ("mpeg2video", {"bf": "2", "g": "12"}),
    "flash.flv": ("flv", {"g": "99"}),
}


def whole(height: int, width: int) -> Crop:
    return Crop((0, 0, height, width), (height, width))


def read_flow(path: Path, pairs: list[tuple[int, int]] | None = None) -> NDArray[np.float32]:
    """Flow of the pairs of neighbours (or of `pairs`) of a whole file, uncropped."""
    with VectorReader(path) as reader:
        reader.frames(range(len(reader)))
        pairs = pairs or list(pairwise(range(len(reader))))
        return reader.flow(pairs, whole(reader.height, reader.width))


def inner_median(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Median motion of each pair, away from the borders: [P, 2]."""
    return np.median(flow[:, :, 16:-16, 16:-16], axis=(2, 3))


def blocks(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, np.float32).reshape(-1, 6)


@pytest.mark.parametrize("name", FILES)
def test_the_motion_of_every_pair_is_found(name: str, tmp_path: Path) -> None:
    """Uneven motion: wrong signs, frames, references and distances would all show."""
    codec, options = FILES[name]
    flow = read_flow(write_pan(tmp_path / name, codec, options=options))
    assert flow.shape == (len(MOVES), 2, 112, 176)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(inner_median(flow), MOVES, atol=0.3)


@pytest.mark.parametrize(
    "options", [{"bf": "3", "b_strategy": "0", "x264-params": "b-pyramid=normal"}, {}]
)
def test_motion_around_b_frames_that_others_refer_to(
    options: dict[str, str], tmp_path: Path
) -> None:
    """A P-frame cannot refer to the B-frames shown before it, though other B-frames do."""
    steady = [(-4, -2)] * 20
    path = write_pan(tmp_path / "a.mp4", moves=steady, size=(96, 160), options=options)
    assert "B" in {kind for kind, reference in _kinds(path) if reference}
    flow = read_flow(path)
    np.testing.assert_allclose(inner_median(flow), steady, atol=0.3)
    for start in range(19):  # nor does it change with the frames that happen to be read
        with VectorReader(path) as reader:
            reader.frames([start, start + 1])
            part = reader.flow([(start, start + 1)], whole(96, 160))
        np.testing.assert_allclose(inner_median(part), [(-4, -2)], atol=0.3)


def _kinds(path: Path) -> list[tuple[str, bool | None]]:
    """Type of each picture, and whether others may refer to it, in order of showing."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        extradata = stream.codec_context.extradata
        packets = [packet for packet in container.demux(stream) if packet.size]
        marks = {packet.pts: h264_reference(bytes(packet), extradata) for packet in packets}
    with av.open(str(path)) as container:
        return [
            (PictureType(frame.pict_type).name, marks[frame.pts])
            for frame in container.decode(video=0)
        ]


def test_b_frames_of_mpeg4_share_the_motion_between_the_others(tmp_path: Path) -> None:
    """FFmpeg gives zeros for them, which would read as no motion."""
    path = write_pan(tmp_path / "b.avi", "mpeg4", options={"bf": "2", "g": "99"})
    found = inner_median(read_flow(path))
    for start in range(3, 21, 3):
        mean = np.mean(MOVES[start : start + 3], axis=0)
        np.testing.assert_allclose(found[start : start + 3], [mean] * 3, atol=0.4)


def test_a_keyframe_has_the_motion_of_the_pair_before(tmp_path: Path) -> None:
    steady = [(3, -2)] * 20
    options = {"bf": "0", "g": "6", "x264-params": "scenecut=0"}
    flow = read_flow(write_pan(tmp_path / "g.mp4", moves=steady, options=options))
    np.testing.assert_allclose(inner_median(flow), steady, atol=0.3)


def test_motion_over_several_frames_follows_the_frames_between(tmp_path: Path) -> None:
    path = write_pan(tmp_path / "a.mkv")
    pairs = [(0, 4), (5, 5), (6, 8), (20, 23)]
    flow = read_flow(path, pairs)
    expected = [np.sum(MOVES[first:last], axis=0) for first, last in pairs if last > first]
    np.testing.assert_allclose(inner_median(flow)[[0, 2, 3]], expected, atol=0.5)
    assert not flow[1].any()


PLACES = (0, 2, 7, 8)
"""x of everything in the frames R b b R, of which only the R may be referred to."""


@pytest.mark.parametrize(
    ("past", "future"), [((1, 2), ()), ((), (1, 2)), ((1,), (2,)), ((2,), (1,)), ((1, 2), (1, 2))]
)
def test_vectors_to_one_frame_tell_how_two_others_differ(
    past: tuple[int, ...], future: tuple[int, ...]
) -> None:
    """Uneven motion is exact wherever the frames of a pair have vectors to one and the same."""

    def towards(number: int, other: int) -> NDArray[np.float32]:
        return blocks((0, 0, 128, 64, PLACES[other] - PLACES[number], 0))

    frames = [FrameVectors(0, 0, True, NO_BLOCKS, NO_BLOCKS)]
    for number in (1, 2):
        before = towards(number, 0) if number in past else NO_BLOCKS
        after = towards(number, 3) if number in future else NO_BLOCKS
        frames.append(FrameVectors(number, number + 1, False, before, after))
    frames.append(FrameVectors(3, 1, True, towards(3, 0), NO_BLOCKS))
    for number in (0, 2) if set(past).isdisjoint(future) and past and future else (0, 1, 2):
        motion = pair_motion(frames, number, (64, 128))
        assert motion is not None
        expected = PLACES[number + 1] - PLACES[number]
        np.testing.assert_allclose(motion[4:-4, 8:-8, 0], expected, atol=1e-5)


Coded = tuple[int, bool, int | None, int | None]
"""Order, whether others may refer to it, and the numbers of the frames before and after it that
blocks come from."""
FIRST, LAST = (0, True, None, None), (1, True, 0, None)


@pytest.mark.parametrize(
    "coded",
    [
        (FIRST, (3, False, 0, 2), (2, True, 0, 4), (4, False, 2, 4), LAST),
        (FIRST, (3, False, None, None), (2, True, 0, 4), (4, False, 2, 4), LAST),
        (FIRST, (2, True, 0, 4), (4, False, None, 3), (3, True, 1, 4), LAST),
        (FIRST, (2, True, 0, 3), (3, True, None, 3), LAST),
    ],
)
def test_vectors_lead_to_frames_that_are_decoded_before(coded: tuple[Coded, ...]) -> None:
    """Even motion, which the vectors to any frame tell once it is known which one that is."""
    frames = []
    for number, (order, reference, before, after) in enumerate(coded):
        sides = [
            NO_BLOCKS if other is None else blocks((0, 0, 128, 64, 3 * (other - number), 0))
            for other in (before, after)
        ]
        frames.append(FrameVectors(number, order, reference, *sides))
    for number in range(len(coded) - 1):
        motion = pair_motion(frames, number, (64, 128))
        assert motion is not None
        np.testing.assert_allclose(motion[4:-4, 8:-8, 0], 3, atol=1e-5)


def test_motion_is_followed_to_where_it_leads() -> None:
    """A block that goes 16 right, then, from there, 8 down; all else stands still."""
    still = [(x, y, 16.0, 16.0, 0.0, 0.0) for y in range(0, 64, 16) for x in range(0, 96, 16)]
    first = [*still, (32.0, 16.0, 16.0, 16.0, -16.0, 0.0)]
    second = [*still, (32.0, 24.0, 16.0, 16.0, 0.0, -8.0)]
    frames = [
        FrameVectors(number, number, True, blocks(*rows), NO_BLOCKS)
        for number, rows in enumerate(([], first, second))
    ]
    motion = motion_between(frames, 0, 2, (64, 96))
    assert motion is not None
    assert motion[24 // CELL, 24 // CELL].tolist() == [16, 8]
    assert motion[24 // CELL, 72 // CELL].tolist() == [0, 0]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_vectors_turn_with_the_frames(rotation: int, tmp_path: Path) -> None:
    path = write_pan(tmp_path / "turned.mov", rotation=rotation, moves=[(4, 1)] * 8)
    with VectorReader(path) as reader:
        frames = torch.from_numpy(reader.frames(range(9)))
        flow = reader.flow([(4, 5)], whole(*frames.shape[1:3]))
    expected = make_flow("dis-medium")(grey(frames[4:5]), grey(frames[5:6])).numpy()
    assert np.abs(inner_median(expected)).max() > 3
    np.testing.assert_allclose(inner_median(flow), inner_median(expected), atol=0.3)


@pytest.mark.parametrize("turn", [Turn(*kind) for kind in product([False, True], repeat=3)])
def test_blocks_cover_the_pixels_that_they_covered(turn: Turn) -> None:
    """A block, and the place where it comes from, both drawn before and after turning."""
    height, width = 40, 72
    coded = blocks((8, 4, 16, 8, 24, 12), (40, 20, 8, 16, -16, -4))
    for block, other in zip(coded, turn.blocks(coded, height, width), strict=True):
        for moved in (0, 1):
            drawn = turn.pixels(_drawn(block, moved, height, width)[..., None])[..., 0]
            np.testing.assert_array_equal(drawn, _drawn(other, moved, *drawn.shape))


def _drawn(block: NDArray[np.float32], moved: int, height: int, width: int) -> NDArray[np.uint8]:
    left, top, across, down, x, y = (int(value) for value in block)
    left, top = left + moved * x, top + moved * y
    image = np.zeros((height, width), np.uint8)
    image[top : top + down, left : left + across] = 1
    return image


@given(
    box=st.tuples(st.integers(0, 40), st.integers(0, 60), st.integers(20, 60), st.integers(20, 80)),
    size=st.tuples(st.integers(8, 50), st.integers(8, 70)),
    flip=st.booleans(),
    field=st.tuples(*[st.floats(-1, 1, width=32)] * 6),
)
def test_displacements_are_cropped_resized_and_mirrored_as_points_are(
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    flip: bool,
    field: tuple[float, ...],
) -> None:
    """A linear field: its value at both ends of a pixel's way, in either frame, is the same."""
    a, b, c, d, e, f = field
    rows, columns = np.indices((200 // CELL, 240 // CELL))
    x, y = CELL * (columns + 0.5) - 0.5 - 40, CELL * (rows + 0.5) - 0.5 - 40
    motion = np.stack([a + b * x / 50 + c * y / 50, d + e * x / 50 + f * y / 50], axis=-1)
    top, left, crop_height, crop_width = box
    crop = Crop((top + 40, left + 40, crop_height, crop_width), size, flip)
    flow = crop_motion(motion.astype(np.float32), crop)
    assert flow.shape == (2, *size)

    def inside(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """From pixels of the frame to those of the crop, as OpenCV resizes."""
        new_x = (x - left + 0.5) * size[1] / crop_width - 0.5
        new_y = (y - top + 0.5) * size[0] / crop_height - 0.5
        return np.stack([size[1] - 1 - new_x if flip else new_x, new_y])

    new_y, new_x = np.indices(size).astype(np.float64)
    source_x = size[1] - 1 - new_x if flip else new_x
    old_x = (source_x + 0.5) * crop_width / size[1] - 0.5 + left
    old_y = (new_y + 0.5) * crop_height / size[0] - 0.5 + top
    moved_x = old_x + a + b * old_x / 50 + c * old_y / 50
    moved_y = old_y + d + e * old_x / 50 + f * old_y / 50
    expected = inside(moved_x, moved_y) - inside(old_x, old_y)
    np.testing.assert_allclose(flow, expected, atol=0.02 * max(1, size[0] / 20, size[1] / 20))


def test_holes_take_the_motion_around_them() -> None:
    canvas = Canvas(70, 93)
    canvas.paint(blocks((0, 0, 93, 30, 5, -3)), 1)
    motion = canvas.complete()
    assert motion.shape == (18, 24, 2)
    np.testing.assert_allclose(motion, np.broadcast_to(np.float32([5, -3]), motion.shape))


def test_single_blocks_that_came_from_anywhere_go() -> None:
    canvas = Canvas(64, 96)
    canvas.paint(blocks((0, 0, 96, 64, 5, -3), (40, 8, 8, 8, -60, 40)), 1)
    motion = canvas.complete()
    np.testing.assert_array_equal(motion, np.broadcast_to(np.float32([5, -3]), motion.shape))


def test_nothing_known_is_said() -> None:
    frames = [FrameVectors(number, number, True, NO_BLOCKS, NO_BLOCKS) for number in range(4)]
    assert pair_motion(frames, 1, (32, 48)) is None
    assert motion_between(frames, 1, 3, (32, 48)) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hevc.mp4", r"hevc\.mp4: FFmpeg gives no motion vectors of hevc, .* as dis-fast"),
        ("vp9.webm", r"of vp9, "),
        ("all_keys.mp4", r"all_keys\.mp4: frames 0 … 39 hold no motion vectors.* as dis-fast"),
    ],
)
def test_files_without_vectors_are_refused(made: Made, name: str, reason: str) -> None:
    with pytest.raises(VideoError, match=reason):
        read_flow(made(name), [(10, 11)])


@pytest.mark.parametrize(
    "name",
    ["b_pyramid.mkv", "open_gop.mp4", "stream.ts", "b_frames.avi", "mpeg2.mpg", "turned.mov"],
)
def test_frames_are_those_of_the_plain_reader(made: Made, name: str) -> None:
    for indices in ([30, 31, 12], [0], [39, 38, 38], []):
        with VideoReader(made(name)) as plain, VectorReader(made(name)) as reader:
            np.testing.assert_array_equal(reader.frames(indices), plain.frames(indices))


def test_flow_does_not_depend_on_where_reading_begins(tmp_path: Path) -> None:
    path = write_pan(tmp_path / "a.mp4", options={"g": "8", "bf": "2"})
    expected = read_flow(path)
    for start in range(2, 20):
        with VectorReader(path) as reader:
            reader.frames([start, start + 1, start + 2])
            flow = reader.flow([(start, start + 1), (start + 1, start + 2)], whole(112, 176))
        np.testing.assert_array_equal(flow, expected[start : start + 2])


def test_a_frame_of_another_size_is_refused(tmp_path: Path) -> None:
    parts = [
        write_clip(tmp_path / f"{side}.h264", "libx264", size=(side, side)) for side in (48, 64)
    ]
    path = tmp_path / "both.h264"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with VectorReader(path) as reader, pytest.raises(VideoError, match=r"is 64×64 and .* 48×48"):
        reader.frames([60])


def _nal(kind: int, importance: int) -> bytes:
    return bytes([importance << 5 | kind]) + b"\x12\x34\x56"


@pytest.mark.parametrize(("importance", "expected"), [(0, False), (1, True), (3, True)])
def test_references_of_h264(importance: int, expected: bool) -> None:
    """The first slice tells; what comes before it (here SEI, with an importance of 0) does not."""
    units = [_nal(9, 0), _nal(6, 0), _nal(1, importance), _nal(1, 3)]
    coded = b"".join(b"\0\0\0\1" + unit for unit in units)
    assert h264_reference(coded, None) is expected
    assert h264_reference(coded, b"\0\0\0\1" + _nal(7, 3)) is expected
    for size in (1, 2, 4):
        record = bytes([1, 100, 0, 31, 0xFC | (size - 1)])
        boxed = b"".join(len(unit).to_bytes(size, "big") + unit for unit in units)
        assert h264_reference(boxed, record) is expected


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\1", b"\0\0\0\1" + _nal(6, 0), b"\xff" * 9])
def test_packets_without_a_slice_tell_nothing(data: bytes) -> None:
    assert h264_reference(data, None) is None
    assert h264_reference(data, bytes([1, 100, 0, 31, 0xFF])) is None


@pytest.mark.parametrize(
    ("name", "start", "share"), [("mmaction2_demo.mp4", 60, 0.6), ("video_90.mov", 0, 0.8)]
)
def test_real_frames_warped_by_their_vectors_agree(name: str, start: int, share: float) -> None:
    """The difference of neighbours shrinks to less than `share`; one of the videos is turned."""
    if not (CLIPS / name).exists():
        pytest.skip(f"no ../shared/data/clips/{name}")
    with VectorReader(CLIPS / name) as reader:
        images = grey(torch.from_numpy(reader.frames(range(start, start + 3)))).numpy()
        pairs = [(start, start + 1), (start + 1, start + 2)]
        flow = reader.flow(pairs, whole(*images.shape[1:]))
    y, x = np.indices(images.shape[1:], np.float32)
    before, after = 0.0, 0.0
    for (first, second), (u, v) in zip(pairwise(images.astype(np.float32)), flow, strict=True):
        warped = cv2.remap(second, x + u, y + v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        before += np.abs(second - first).mean()
        after += np.abs(warped - first).mean()
    assert after < share * before
