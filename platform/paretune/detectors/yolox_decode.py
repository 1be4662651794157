"""From the raw maps of YOLOX to detections, in numpy: the same code behind every runtime and precision."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paretune.detectors.nms import class_nms
from paretune.structures import Detections, Floats, Thresholds

LARGEST = 10.0
"""Largest logarithm of a box's side in cells: beyond any picture, and exp() of it is still finite."""


def decode(raw: Sequence[Floats], strides: Sequence[int], thresholds: Thresholds) -> list[Detections]:
    """Turn raw maps into detections.

    Args:
        raw: per level: box (B, 4, h, w), objectness (B, 1, h, w), class logits (B, C, h, w).
        strides: pixels between the cells of each level.
        thresholds: what is kept.

    Returns:
        One entry per image, boxes in pixels of the network's input, best score first.
    """
    return [_decode_image([maps[index] for maps in raw], strides, thresholds) for index in range(len(raw[0]))]


def _decode_image(raw: Sequence[Floats], strides: Sequence[int], thresholds: Thresholds) -> Detections:
    """Decode one image: score first, and compute boxes of the best only."""
    # a score is objectness x class, so no cell with less objectness than the threshold can pass: the
    # test is on logits, a little low, and spares the exponentials of all other cells
    cut = _logit(thresholds.score) - 1e-3
    cells = [np.flatnonzero(raw[level * 3 + 1] > cut) for level in range(len(strides))]
    if not any(map(len, cells)):
        return Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    boxes, objectness, classes = (
        np.concatenate([_planes(raw[level * 3 + kind])[:, at] for level, at in enumerate(cells)], axis=1)
        for kind in range(3)
    )
    scores = (_sigmoid(objectness) * _sigmoid(classes)).ravel()
    chosen = _best(scores, thresholds)
    labels, cell = np.divmod(chosen, boxes.shape[1])
    places = np.concatenate([_places(at, raw[level * 3], strides[level]) for level, at in enumerate(cells)], axis=1)
    corners = _corners(boxes[:, cell], places[:, cell])
    kept = class_nms(corners, labels, thresholds.iou, thresholds.detections)
    return Detections(corners[kept], scores[chosen[kept]], labels[kept])


def _planes(maps: Floats) -> Floats:
    """(K, h, w) → (K, h·w)."""
    return maps.reshape(len(maps), -1)


def _best(scores: Floats, thresholds: Thresholds) -> NDArray[np.int64]:
    """Return where the best scores above the threshold are, best first."""
    found = np.flatnonzero(scores >= thresholds.score)
    if len(found) > thresholds.candidates:
        found = found[np.argpartition(-scores[found], thresholds.candidates)[: thresholds.candidates]]
    return found[np.argsort(-scores[found], kind="stable")]


def _places(cells: NDArray[np.int64], maps: Floats, stride: int) -> Floats:
    """Return (3, K): column, row and stride of each cell."""
    row, column = np.divmod(cells, maps.shape[-1])
    return np.stack((column, row, np.full_like(cells, stride))).astype(np.float32)


def _corners(boxes: Floats, places: Floats) -> Floats:
    """Turn (4, N) offsets and log sizes in cells into (N, 4) corners in pixels."""
    stride = places[2]
    centre = (boxes[:2] + places[:2]) * stride
    half = np.exp(np.minimum(boxes[2:], np.float32(LARGEST))) * (stride / 2)
    return np.ascontiguousarray(np.concatenate((centre - half, centre + half)).T)


def _sigmoid(logits: Floats) -> Floats:
    """1 / (1 + exp(-x)), without overflow: beyond 80 float32 cannot tell it from 0."""
    return 1 / (1 + np.exp(np.minimum(-logits, np.float32(80))))


def _logit(score: float) -> float:
    """Return the logit of a score; everything passes at 0, nothing at 1."""
    if not 0 < score < 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
