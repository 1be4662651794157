"""Decoding against a plain torch implementation of the published formula, with torchvision's NMS."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.detectors.yolox.detector import Yolo

STRIDES = (8, 16, 32)
SIZE = InputSize(192, 144)


def random_maps(
    rng: np.random.Generator, batch: int, classes: int, confidence: float, size: InputSize = SIZE
) -> list[Floats]:
    """Maps of a network that finds more the higher ``confidence`` is."""
    maps = []
    for stride in STRIDES:
        cells = (-(-size.height // stride), -(-size.width // stride))
        maps.append(rng.normal(0.5, 0.7, (batch, 4, *cells)))
        maps.append(rng.normal(confidence, 2, (batch, 1, *cells)))
        maps.append(rng.normal(-1, 2, (batch, classes, *cells)))
    return [np.asarray(m, np.float32) for m in maps]


def reference(raw: list[Floats], image: int, thresholds: Thresholds) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every cell decoded, every score compared, no short cuts."""
    boxes, scores = [], []
    for level, stride in enumerate(STRIDES):
        box, objectness, classes = (torch.from_numpy(raw[level * 3 + kind][image]).double() for kind in range(3))
        for y in range(box.shape[1]):
            for x in range(box.shape[2]):
                cx, cy = (box[0, y, x] + x) * stride, (box[1, y, x] + y) * stride
                w, h = box[2, y, x].exp() * stride, box[3, y, x].exp() * stride
                boxes.append(torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)))
                scores.append(objectness[0, y, x].sigmoid() * classes[:, y, x].sigmoid())
    all_scores = torch.stack(scores)
    cell, label = (all_scores >= thresholds.score).nonzero(as_tuple=True)
    score, box_of = all_scores[cell, label], torch.stack(boxes)[cell]
    best = score.argsort(descending=True)[: thresholds.candidates]
    keep = best[batched_nms(box_of[best], score[best], label[best], thresholds.iou)][: thresholds.detections]
    return box_of[keep], score[keep], label[keep]


@pytest.mark.parametrize("confidence", [-6.0, -3.0, 0.0])
@pytest.mark.parametrize("thresholds", [Thresholds(), Thresholds(score=0.3, iou=0.4, candidates=60, detections=20)])
def test_equals_the_plain_implementation(confidence: float, thresholds: Thresholds) -> None:
    raw = random_maps(np.random.default_rng(int(confidence) + 10), 2, 3, confidence)
    for image, found in enumerate(Yolo().decode(raw, SIZE, thresholds)):
        boxes, scores, labels = reference(raw, image, thresholds)
        assert len(found.scores) == len(scores)
        np.testing.assert_array_equal(found.labels, labels)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-5)
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-4, atol=1e-3)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), confidence=st.floats(-12, 3), classes=st.integers(1, 6))
def test_keeps_what_it_promises(seed: int, confidence: float, classes: int) -> None:
    thresholds = Thresholds(score=0.05, detections=30)
    raw = random_maps(np.random.default_rng(seed), 1, classes, confidence)
    (found,) = Yolo().decode(raw, SIZE, thresholds)
    assert found.boxes.shape == (len(found.scores), 4)
    assert (found.boxes.dtype, found.scores.dtype, found.labels.dtype) == (np.float32, np.float32, np.int64)
    assert len(found.scores) <= thresholds.detections
    assert (np.diff(found.scores) <= 0).all()
    assert ((found.scores >= thresholds.score) & (found.scores <= 1)).all()
    assert ((found.labels >= 0) & (found.labels < classes)).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()


def test_batched_equals_one_by_one() -> None:
    raw = random_maps(np.random.default_rng(3), 3, 4, -2)
    together = Yolo().decode(raw, SIZE, Thresholds())
    for image in range(3):
        (alone,) = Yolo().decode([maps[image : image + 1] for maps in raw], SIZE, Thresholds())
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(alone, name), getattr(together[image], name))


def empty(found: Detections) -> bool:
    return found.boxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.shape == (0,)


def test_nothing_found_is_an_empty_result() -> None:
    raw = random_maps(np.random.default_rng(0), 1, 3, -60)
    assert empty(Yolo().decode(raw, SIZE, Thresholds())[0])
    assert empty(Yolo().decode(random_maps(np.random.default_rng(0), 1, 3, 0), SIZE, Thresholds(score=1.0))[0])


def test_extreme_maps_give_finite_boxes_without_warnings() -> None:
    raw = [np.full_like(maps, 1e4) for maps in random_maps(np.random.default_rng(0), 1, 2, 0)]
    with np.errstate(all="raise"):
        (found,) = Yolo().decode(raw, SIZE, Thresholds())
        assert empty(Yolo().decode([-maps for maps in raw], SIZE, Thresholds())[0])
    assert np.isfinite(found.boxes).all()
    assert (found.scores == 1).all()


def test_no_loop_goes_over_cells_or_candidates() -> None:
    """Calls are counted, not timed: 16 times the cells, and as many more candidates, take no more of them."""
    calls = []
    for times in (1, 4):
        size = InputSize(times * SIZE.width, times * SIZE.height)
        raw = random_maps(np.random.default_rng(0), 1, 3, -4, size)
        Yolo().decode(raw, size, Thresholds())  # imports
        count = 0

        def counting(_frame: Any, event: str, _what: Any) -> None:
            nonlocal count
            count += event in {"call", "c_call"}

        sys.setprofile(counting)
        try:
            (found,) = Yolo().decode(raw, size, Thresholds())
        finally:
            sys.setprofile(None)
        assert len(found.scores) > 0
        calls.append(count)
    assert calls[1] < 1.5 * calls[0] < 5000
