"""Decoding of SSD's raw maps into detections, in numpy, for every runtime and precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.detectors.nms import best_candidates, no_detections, suppress
from paretune.detectors.ssd.default_boxes import CENTRE_WEIGHT, LARGEST, SIZE_WEIGHT


def decode(
    raw: Sequence[Floats],
    anchors: Floats,
    boxes_per_cell: Sequence[int],
    size: InputSize,
    thresholds: Thresholds,
) -> list[Detections]:
    """Turn raw maps into detections.

    Args:
        raw: per level: class logits (B, K·(C + 1), h, w), background first, and box offsets (B, K·4, h, w), for K
            default boxes in a cell.
        anchors: (N, 4) of all levels.
        boxes_per_cell: K of each level.
        size: of the input, at whose edges boxes are cut off before they are compared.
        thresholds: what is kept.

    Returns:
        One entry per image, boxes in pixels of the network's input, best score first.
    """
    detections = []
    for image in range(len(raw[0])):
        logits, offsets = (
            np.concatenate(
                [_rows(maps[image], k) for maps, k in zip(raw[kind::2], boxes_per_cell, strict=True)], axis=1
            )
            for kind in range(2)
        )
        detections.append(_decode_image(logits, offsets, anchors, size, thresholds))
    return detections


def _rows(maps: Floats, boxes: int) -> Floats:
    """Return maps (K·V, h, w) as (V, h·w·K): values of each default box, cell by cell."""
    values = len(maps) // boxes
    return maps.reshape(boxes, values, -1).transpose(1, 2, 0).reshape(values, -1)


def _decode_image(
    logits: Floats, offsets: Floats, anchors: Floats, size: InputSize, thresholds: Thresholds
) -> Detections:
    exponentials = np.exp(logits - logits.max(axis=0))
    scores = (exponentials[1:] / exponentials.sum(axis=0)).ravel()
    chosen = best_candidates(scores, thresholds)
    if not len(chosen):
        return no_detections()
    labels, at = np.divmod(chosen, len(anchors))
    limits = np.array([size.width, size.height, size.width, size.height], np.float32)
    boxes = np.clip(_corners(offsets.take(at, axis=1).T, anchors[at]), 0, limits)
    kept = suppress(boxes, scores[chosen], labels, thresholds)
    return Detections(boxes[kept], scores[chosen[kept]], labels[kept])


def _corners(offsets: Floats, anchors: Floats) -> Floats:
    """Move default boxes (N, 4) by offsets (N, 4): centre in sides, sides in logarithms."""
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + 0.5 * sides + offsets[:, :2] / np.float32(CENTRE_WEIGHT) * sides
    logs = np.minimum(offsets[:, 2:] / np.float32(SIZE_WEIGHT), np.float32(LARGEST))
    half = 0.5 * np.exp(logs) * sides
    return np.asarray(np.concatenate([centres - half, centres + half], axis=1), np.float32)
