"""Arrays that grow window by window are what numpy reads; nothing is left of a failure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m3video.motion.trajectory import Tracks
from m3video.report.track_arrays import TrackArrays

SMALL = {"starts": [0, 3], "fps": 25.0, "settings": {"flow": ["dis-fast", "×"]}}


def window(seed: int) -> Tracks:
    random = torch.Generator().manual_seed(seed)
    points = torch.rand(2, 5, 4, 2, generator=random)
    return Tracks(points, points.diff(dim=-2), torch.rand(2, 5, 4, generator=random) > 0.5)


def write(path: Path, names: tuple[str, ...], windows: int = 2) -> None:
    with TrackArrays(path, names, 2, (2, 5), 3, SMALL) as arrays:
        for number in range(windows):
            for estimator in range(len(names)):
                arrays.add(estimator, window(10 * number + estimator))


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_numpy_reads_what_was_added(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = tmp_path / "new" / "tracks.npz"
    write(path, names)
    assert [each.name for each in path.parent.iterdir()] == ["tracks.npz"]
    with np.load(path, allow_pickle=False) as held:
        for estimator, name in enumerate(names):
            prefix = f"{name}/" if len(names) > 1 else ""
            for part in ("points", "displacements", "visible"):
                both = [getattr(window(10 * number + estimator), part) for number in (0, 1)]
                np.testing.assert_array_equal(held[prefix + part], torch.stack(both).numpy())
        assert held["starts"].tolist() == [0, 3]
        assert held["fps"] == 25.0
        assert "dis-fast" in str(held["settings"])
        assert len(held.files) == 3 * len(names) + 3


def test_the_same_numbers_make_the_same_file(tmp_path: Path) -> None:
    write(tmp_path / "one.npz", ("a",))
    write(tmp_path / "two.npz", ("a",))
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def test_too_few_windows_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bytes"):
        write(tmp_path / "tracks.npz", ("a",), windows=1)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "tracks.npz"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with TrackArrays(path, ("a",), 2, (2, 5), 3, SMALL) as arrays:
            arrays.add(0, window(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_window_of_another_shape_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="points"),
        TrackArrays(tmp_path / "t.npz", ("a",), 2, (3, 5), 3, SMALL) as arrays,
    ):
        arrays.add(0, window(0))
    assert list(tmp_path.iterdir()) == []
