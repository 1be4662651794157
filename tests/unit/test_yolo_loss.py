"""The loss against numbers from the official code, and SimOTA against a loop over boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from paretune.core.types import Annotations, InputSize
from paretune.detectors.yolox import loss as module
from paretune.detectors.yolox.detector import Yolo

STRIDES = (8, 16, 32)
SIZE = InputSize(64, 64)  # YOLOX's loss does not ask for it
GOLDEN = json.loads((Path(__file__).parent.parent / "golden" / "yolox_official.json").read_text())["losses"]


def scene(seed: int, counts: tuple[int, ...] = (0, 4, 15)) -> tuple[list[torch.Tensor], list[Annotations]]:
    """Random maps and boxes of 192x128; the golden losses were computed for these."""
    rng, raw = np.random.default_rng(seed), []
    batch = len(counts)
    for stride in STRIDES:
        cells = (128 // stride, 192 // stride)
        raw.append(rng.normal(size=(batch, 4, *cells)) * 0.7 + np.array([0.3, 0.3, 0.8, 0.8]).reshape(1, 4, 1, 1))
        raw.append(rng.normal(size=(batch, 1, *cells)) * 2 - 2)
        raw.append(rng.normal(size=(batch, 3, *cells)) * 2)
    annotations = []
    for count in counts:
        centre, side = rng.uniform(0, 1, (count, 2)) * (192, 128), rng.uniform(4, 64, (count, 2))
        labels = rng.integers(0, 3, count)
        boxes = np.concatenate((centre - side / 2, centre + side / 2), 1).astype(np.float32)
        annotations.append(Annotations(boxes, labels, np.zeros(count, bool)))
    return [torch.from_numpy(maps.astype(np.float32)) for maps in raw], annotations


@pytest.mark.parametrize("seed", range(len(GOLDEN)))
def test_equals_the_official_loss(seed: int) -> None:
    raw, annotations = scene(seed)
    terms = Yolo().loss(raw, annotations, SIZE)
    assert list(terms) == ["box", "objectness", "class"]
    np.testing.assert_allclose([term.item() for term in terms.values()], GOLDEN[seed], rtol=1e-5)


def assigned_by_loops(found: module.Predictions, image: int, entry: Annotations) -> dict[int, int]:
    """SimOTA as the paper tells it: one box after the other."""
    boxes, labels = torch.from_numpy(entry.boxes), entry.labels
    overlap = box_iou(boxes, found.boxes[image])
    score = (found.classes[image].sigmoid() * found.objectness[image].sigmoid()[:, None]).sqrt()
    wanted: dict[int, list[tuple[float, int]]] = {}
    near = torch.zeros(overlap.shape, dtype=torch.bool)
    for number in range(len(boxes)):
        centre = (boxes[number, :2] + boxes[number, 2:]) / 2
        near[number] = ((found.centres - centre).abs().amax(1) / found.strides) < 1.5
    overlap = overlap * near.any(0)
    for number in range(len(boxes)):
        truth = torch.zeros_like(score)
        truth[:, labels[number]] = 1
        entropy = torch.nn.functional.binary_cross_entropy(score, truth, reduction="none").sum(1)
        cost = entropy - 3 * torch.log(overlap[number] + 1e-8)
        cost[~near[number]] = torch.inf
        count = max(1, int(overlap[number].topk(10).values.sum()))
        for cell in cost.argsort()[:count].tolist():
            if torch.isfinite(cost[cell]):
                wanted.setdefault(cell, []).append((float(cost[cell]), number))
    return {cell: min(candidates)[1] for cell, candidates in wanted.items()}


@settings(max_examples=25, deadline=None, derandomize=True)  # of costs that are nearly equal either order is right
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12))
def test_assignment_equals_the_loop_over_boxes(seed: int, count: int) -> None:
    raw, annotations = scene(seed, (count, 3))
    found = module.predictions(raw, STRIDES)
    given_to = module.assign(found, *module.stack_annotations(annotations, torch.device("cpu")))
    for image, entry in enumerate(annotations):
        mine = {
            int(c): int(b) for i, c, b in zip(given_to.image, given_to.cell, given_to.box, strict=True) if i == image
        }
        assert mine == (assigned_by_loops(found, image, entry) if len(entry.labels) else {})


def test_images_without_boxes_only_teach_that_nothing_is_there() -> None:
    raw, annotations = scene(0, (0, 0))
    for maps in raw:
        maps.requires_grad_()
    terms = Yolo().loss(raw, annotations, SIZE)
    sum(terms.values()).backward()
    assert terms["box"].item() == terms["class"].item() == 0
    assert all((raw[level * 3 + 1].grad > 0).all() for level in range(3))
    assert all(torch.isfinite(maps.grad).all() for maps in raw)


def test_is_deterministic_and_does_not_depend_on_the_order_of_boxes() -> None:
    raw, annotations = scene(5)
    shuffled = [Annotations(a.boxes[::-1].copy(), a.labels[::-1].copy(), a.ignore) for a in annotations]
    first, again, turned = (Yolo().loss(raw, a, SIZE) for a in (annotations, annotations, shuffled))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for name in first:
        torch.testing.assert_close(first[name], turned[name])


def test_takes_bfloat16_maps_and_counts_in_float32() -> None:
    raw, annotations = scene(1)
    terms = Yolo().loss([maps.bfloat16() for maps in raw], annotations, SIZE)
    assert {term.dtype for term in terms.values()} == {torch.float32}
    np.testing.assert_allclose([term.item() for term in terms.values()], GOLDEN[1], rtol=0.05)


def test_perfect_maps_have_almost_no_loss() -> None:
    box = np.array([[40, 24, 88, 72]], np.float32)
    raw = [torch.zeros(1, channels, 128 // s, 192 // s) for s in STRIDES for channels in (4, 1, 3)]
    for level, stride in enumerate(STRIDES):
        rows, columns = torch.meshgrid(torch.arange(128 // stride), torch.arange(192 // stride), indexing="ij")
        centre = torch.stack((64 / stride - columns, 48 / stride - rows))
        side = torch.full((2, *rows.shape), 48 / stride).log()
        raw[level * 3][0] = torch.cat((centre, side))
        raw[level * 3 + 1][:] = -20
        raw[level * 3 + 2][:] = torch.tensor([-20.0, 20.0, -20.0])[:, None, None]
    annotations = [Annotations(box, np.array([1]), np.zeros(1, bool))]
    found = module.predictions(raw, STRIDES)
    given_to = module.assign(found, *module.stack_annotations(annotations, torch.device("cpu")))
    assert len(given_to.cell) == 10
    torch.testing.assert_close(given_to.iou, torch.ones(10))
    terms = Yolo().loss(raw, annotations, SIZE)
    assert float(terms["box"]) < 1e-4
    assert float(terms["class"]) < 1e-4
