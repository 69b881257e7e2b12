"""RoIAlign by hand and by torchvision; the detector reads each box in its own clip."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import avg_pool2d

from m3video.config import ClipConfig
from m3video.errors import CheckpointError
from m3video.model.checkpoint import (
    load_classifier,
    load_detector,
    load_encoder,
    load_model,
    save_model,
)
from m3video.model.classifier import Classifier
from m3video.model.detector import Detector, roi_align
from m3video.model.vit import VisionTransformer

CLIP = ClipConfig(frames=4, stride=2, size=(32, 48), patch=8)


def encoder() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        frames=4, size=(32, 48), tubelet=2, patch=8, width=32, depth=1, heads=2
    )


def test_the_whole_map_is_its_means() -> None:
    """14×28 values, 7×7 cells, 2×2 samples: rows are met at their centres, columns between two."""
    maps = torch.randn(1, 3, 14, 28)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    found = roi_align(maps, whole, torch.tensor([0]), cells=7, samples=2)
    torch.testing.assert_close(found, avg_pool2d(maps, (2, 4)))


def test_cells_of_a_small_box_by_hand() -> None:
    """One cell, 2×2 samples, by the four neighbours of each."""
    maps = torch.arange(20.0).view(1, 1, 4, 5) ** 1.5
    # Columns 1 … 3 of 5 and rows 1 … 2 of 4 as edges: x 1.0 … 3.0, y 1.0 … 2.0, less ½ each.
    box = torch.tensor([[1 / 5, 1 / 4, 3 / 5, 2 / 4]])
    found = roi_align(maps, box, torch.tensor([0]), cells=1, samples=2)
    value = maps[0, 0]
    samples = []
    for y in (1.25 - 0.5, 1.75 - 0.5):
        for x in (1.5 - 0.5, 2.5 - 0.5):
            row, column = int(y), int(x)
            b, a = y - row, x - column
            samples.append(
                (1 - b) * ((1 - a) * value[row, column] + a * value[row, column + 1])
                + b * ((1 - a) * value[row + 1, column] + a * value[row + 1, column + 1])
            )
    torch.testing.assert_close(found.item(), float(sum(samples) / 4), rtol=1e-5, atol=1e-5)


def test_on_a_slope_a_cell_is_its_centre() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(12.0), indexing="ij")
    maps = torch.stack([x, y])[None]
    box = torch.tensor([[0.2, 0.3, 0.7, 0.8]])
    found = roi_align(maps, box, torch.tensor([0]), cells=5, samples=3)[0]
    centres = (torch.arange(5) + 0.5) / 5
    torch.testing.assert_close(found[0, 0], (0.2 + 0.5 * centres) * 12 - 0.5)
    torch.testing.assert_close(found[1, :, 0], (0.3 + 0.5 * centres) * 9 - 0.5)


def test_boxes_are_cut_out_of_their_own_map() -> None:
    maps = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 1, 4, 6)
    boxes = torch.rand(4, 4).sort(1).values
    found = roi_align(maps, boxes, torch.tensor([2, 0, 1, 2]), cells=3, samples=1)
    wanted = torch.tensor([3.0, 1.0, 2.0, 3.0]).view(4, 1, 1, 1).expand(4, 1, 3, 3)
    torch.testing.assert_close(found, wanted)


def test_places_are_not_rounded_with_the_values() -> None:
    """In bfloat16 a box would move by up to 1/512 of the frame: on this slope by half a column."""
    maps = torch.arange(256.0).expand(1, 1, 4, 256)
    box = torch.tensor([[0.8026, 0.2, 0.8065, 0.8]])
    whole, half = (
        roi_align(values, box, torch.tensor([0]), cells=1, samples=2)
        for values in (maps, maps.bfloat16())
    )
    torch.testing.assert_close(half, whole, rtol=0, atol=1e-3)


def test_roi_align_is_that_of_torchvision() -> None:
    try:
        from torchvision.ops import roi_align as theirs
    except (ImportError, RuntimeError):
        pytest.skip("torchvision cannot be imported here")
    maps, boxes, rows = random_boxes()
    pixels = boxes * torch.tensor([20.0, 14.0, 20.0, 14.0])
    wanted = theirs(
        maps,
        torch.cat([rows[:, None].float(), pixels], dim=1),
        output_size=7,
        sampling_ratio=2,
        aligned=True,
    )
    found = roi_align(maps, boxes, rows, cells=7, samples=2)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_roi_align_is_that_of_onnx() -> None:
    """Its mode `half_pixel` is what torchvision calls aligned."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    tensor, helper = onnx.TensorProto, onnx.helper
    node = helper.make_node(
        "RoiAlign",
        ["maps", "boxes", "rows"],
        ["cells"],
        mode="avg",
        output_height=7,
        output_width=7,
        sampling_ratio=2,
        coordinate_transformation_mode="half_pixel",
    )
    inputs = [
        helper.make_tensor_value_info("maps", tensor.FLOAT, [2, 4, 14, 20]),
        helper.make_tensor_value_info("boxes", tensor.FLOAT, [10, 4]),
        helper.make_tensor_value_info("rows", tensor.INT64, [10]),
    ]
    output = helper.make_tensor_value_info("cells", tensor.FLOAT, [10, 4, 7, 7])
    graph = helper.make_graph([node], "roi", inputs, [output])
    opset = [helper.make_opsetid("", 16)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    maps, boxes, rows = random_boxes()
    pixels = boxes * torch.tensor([20.0, 14.0, 20.0, 14.0])
    given = {"maps": maps.numpy(), "boxes": pixels.numpy(), "rows": rows.numpy()}
    (wanted,) = session.run(None, given)
    found = roi_align(maps, boxes, rows, cells=7, samples=2)
    torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-4, atol=1e-5)


def random_boxes() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Maps, boxes as fractions, and the map of each."""
    torch.manual_seed(0)
    corners = torch.rand(10, 2, 2).sort(1).values
    boxes = torch.cat([corners[:, 0], corners[:, 1]], dim=1)
    return torch.randn(2, 4, 14, 20), boxes, torch.arange(10) % 2


def test_a_box_reads_its_clip_alone() -> None:
    model = Detector(encoder(), ("sit", "stand", "talk")).eval()
    torch.nn.init.normal_(model.head.weight)
    clips = torch.randn(2, 3, 4, 32, 48)
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.9], [0.5, 0.2, 1.0, 0.8], [0.1, 0.1, 0.5, 0.9]])
    together = model(clips, boxes, torch.tensor([1, 0, 0]))
    assert together.shape == (3, 3)
    alone = model(clips[1:], boxes[:1], torch.tensor([0]))
    torch.testing.assert_close(together[:1], alone)
    assert (together[0] - together[2]).abs().max() > 1e-3, "the same box of another clip"
    assert (together[1] - together[2]).abs().max() > 1e-3, "another box of the same clip"


def test_time_is_averaged_and_places_are_kept() -> None:
    """A value that only the tokens of one place have is seen by boxes over this place."""

    class Lit(torch.nn.Module):
        tokens = (2, 4, 6)

        def forward(self, clip: torch.Tensor) -> torch.Tensor:
            tokens = torch.zeros(1, 2, 4, 6, 32)
            tokens[0, 1, 2, 5, :16] = 1.0  # the second moment, row 2, column 5
            return tokens.flatten(1, 3)

    model = Detector(encoder(), ("a",)).eval()
    torch.nn.init.normal_(model.head.weight)
    model.encoder = Lit()
    lit = torch.tensor([[5 / 6, 2 / 4, 1.0, 3 / 4]])
    dark = torch.tensor([[0.0, 0.0, 3 / 6, 1 / 4]])
    rows = torch.tensor([0])
    nothing = model.head(model.norm(torch.zeros(1, 32)))
    half = torch.cat([torch.full((1, 16), 0.5), torch.zeros(1, 16)], dim=1)
    torch.testing.assert_close(model(torch.empty(1), dark, rows), nothing)
    torch.testing.assert_close(model(torch.empty(1), lit, rows), model.head(model.norm(half)))


def test_little_is_said_before_anything_is_learned() -> None:
    model = Detector(encoder(), ("sit", "stand"))
    logits = model(
        torch.randn(1, 3, 4, 32, 48), torch.rand(2, 4).sort(1).values, torch.zeros(2).long()
    )
    torch.testing.assert_close(logits.sigmoid(), torch.full((2, 2), 0.01))


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = Detector(encoder(), ("sit", "stand")).eval()
    torch.nn.init.normal_(model.head.weight)
    save_model(model, tmp_path / "model", CLIP)
    again = load_detector(tmp_path)
    assert again.labels == ("sit", "stand")
    assert again.encoder.clip == CLIP
    inputs = torch.randn(1, 3, 4, 32, 48), torch.tensor([[0.1, 0.1, 0.9, 0.9]]), torch.tensor([0])
    torch.testing.assert_close(again(*inputs), model(*inputs), rtol=0, atol=0)
    clip = inputs[0]
    torch.testing.assert_close(load_encoder(tmp_path)(clip), model.encoder(clip))
    with pytest.raises(CheckpointError, match="a detector, which reads boxes, too"):
        load_model(tmp_path)
    with pytest.raises(CheckpointError, match="a detector"):
        load_classifier(tmp_path)


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    save_model(encoder(), tmp_path / "encoder", CLIP)
    save_model(Classifier(encoder(), ("a", "b")), tmp_path / "classifier", CLIP)
    for name in ("encoder", "classifier"):
        with pytest.raises(CheckpointError, match="no detector; train one first"):
            load_detector(tmp_path / name)
