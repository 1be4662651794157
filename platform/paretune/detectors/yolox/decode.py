"""Decoding of YOLOX's raw maps into detections, in numpy, for every runtime and precision."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Detections, Floats, Thresholds
from paretune.detectors.nms import best_candidates, no_detections, suppress

LARGEST = 10.0
"""Largest logarithm, up or down, of a box's side in cells: beyond any picture, and exp() stays finite."""


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
    """Decode one image: scores first, and boxes of the best only."""
    starts, grid = _grid(tuple(maps.shape[1:] for maps in raw[::3]), tuple(strides))
    objectness = np.concatenate([maps.ravel() for maps in raw[1::3]])
    # a score is objectness x class, so no cell with less objectness than the threshold can pass: the
    # test is on logits, a little low, and spares the exponentials of all other cells
    cells = np.flatnonzero(objectness > _logit(thresholds.score) - 1e-3)
    bounds = [*np.searchsorted(cells, starts), len(cells)]
    logits = [
        _planes(maps).take(cells[bounds[level] : bounds[level + 1]] - starts[level], axis=1)
        for level, maps in enumerate(raw[2::3])
    ]
    scores = (_sigmoid(objectness[cells]) * _sigmoid(np.concatenate(logits, axis=1))).ravel()
    chosen = best_candidates(scores, thresholds)
    if not len(chosen):
        return no_detections()
    labels, places = np.divmod(chosen, len(cells))
    at = cells[places]
    boxes = _corners(
        np.concatenate([_planes(maps) for maps in raw[::3]], axis=1).take(at, axis=1), grid.take(at, axis=1)
    )
    kept = suppress(boxes, scores[chosen], labels, thresholds)
    return Detections(boxes[kept], scores[chosen[kept]], labels[kept])


@functools.lru_cache(maxsize=8)
def _grid(shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...]) -> tuple[NDArray[np.int64], Floats]:
    """Return the number of cells before each level, and (3, A): column, row and stride of every cell."""
    levels = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        row, column = np.divmod(np.arange(height * width), width)
        levels.append(np.stack((column, row, np.full_like(row, stride))))
    starts = np.cumsum([0, *(level.shape[1] for level in levels)])[:-1]
    return starts, np.concatenate(levels, axis=1).astype(np.float32)


def _planes(maps: Floats) -> Floats:
    """Return maps (K, h, w) as (K, h·w)."""
    return maps.reshape(len(maps), -1)


def _corners(boxes: Floats, grid: Floats) -> Floats:
    """Turn (4, N) offsets and log sizes in cells, at (3, N) places, into (N, 4) corners in pixels."""
    stride = grid[2]
    centre = (boxes[:2] + grid[:2]) * stride
    half = np.exp(np.clip(boxes[2:], np.float32(-LARGEST), np.float32(LARGEST))) * (stride / 2)
    return np.ascontiguousarray(np.concatenate((centre - half, centre + half)).T)


def _sigmoid(logits: Floats) -> Floats:
    """Compute 1 / (1 + exp(-x)); beyond 80 float32 would overflow, or round the result to 0 or 1."""
    return np.reciprocal(np.float32(1) + np.exp(-np.clip(logits, np.float32(-80), np.float32(80))))


def _logit(score: float) -> float:
    """Return the logit of a score; everything passes at 0, nothing at 1."""
    if not 0 < score < 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
