"""Non-maximum suppression in numpy, for artefacts that run without torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paretune.structures import Floats

BLOCK = 128


def class_nms(boxes: Floats, labels: NDArray[np.int64], iou: float, limit: int) -> NDArray[np.int64]:
    """Drop every box that overlaps a better one of its class by more than ``iou``.

    Works in blocks, best first, and stops at ``limit``: the pairs of boxes that can no longer be
    kept are never compared.

    Args:
        boxes: (N, 4), x1 y1 x2 y2, best score first.
        labels: (N,).
        iou: largest intersection over union of two boxes kept.
        limit: most boxes kept.

    Returns:
        (K,) rows kept, in their order; K ≤ limit.
    """
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)
    planes = (x1, y1, x2, y2, (x2 - x1) * (y2 - y1), labels)
    kept: NDArray[np.int64] = np.empty(0, np.int64)
    for start in range(0, len(boxes), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(boxes)))
        if len(kept):
            rows = rows[~_overlaps(planes, rows, kept, iou).any(axis=1)]
        kept = np.concatenate((kept, rows[_greedy(_overlaps(planes, rows, rows, iou))]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def _overlaps(
    planes: tuple[NDArray[np.generic], ...], rows: NDArray[np.int64], others: NDArray[np.int64], iou: float
) -> NDArray[np.bool_]:
    """Tell (R, O) which boxes of one class overlap by more than ``iou``."""
    x1, y1, x2, y2, area, label = ((plane[rows, None], plane[others]) for plane in planes)
    common = np.minimum(*x2) - np.maximum(*x1)
    height = np.minimum(*y2) - np.maximum(*y1)
    np.maximum(common, 0, out=common)
    np.maximum(height, 0, out=height)
    common *= height
    union = area[0] + area[1] - common
    return (common > np.float32(iou) * union) & (label[0] == label[1])


def _greedy(overlaps: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rows of (N, N) that no kept row before them overlaps."""
    gone = np.zeros(len(overlaps), np.bool_)
    rows = []
    # a row that overlaps nothing after it cannot change anything: most rows, usually
    busy = np.triu(overlaps, 1).any(axis=1)
    for row in np.flatnonzero(busy):
        if not gone[row]:
            gone[row + 1 :] |= overlaps[row, row + 1 :]
    rows = np.flatnonzero(~gone)
    return rows
