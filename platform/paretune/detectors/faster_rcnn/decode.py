"""What Faster R-CNN does between its two networks and after them, in numpy: the same behind every runtime.

Ren et al., Faster R-CNN, NeurIPS 2015 (arXiv:1506.01497); He et al., RoIAlign, in Mask R-CNN, ICCV 2017
(arXiv:1703.06870); Lin et al., Feature Pyramid Networks, CVPR 2017 (arXiv:1612.03144).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Detections, Floats, InputSize, Thresholds
from paretune.detectors.nms import best_candidates, no_detections, suppress

RATIOS = (0.5, 1.0, 2.0)
LARGEST = math.log(1000 / 16)
"""Offsets of sides are cut off here: a box grows at most 62.5 times."""
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""What the second network's offsets are multiplied by: of the centre, of the sides."""
PROPOSAL_IOU = 0.7
SMALLEST = 1e-3
"""Side in pixels below which a proposal is none."""
SMALLEST_BOX = 1e-2
"""Side in pixels below which a final box is none."""
POOL = 7
SAMPLES = 2
"""Points along each side of each of the 7 x 7 parts of a region."""


@lru_cache(maxsize=64)
def anchors(
    shapes: tuple[tuple[int, ...], ...], sizes: tuple[tuple[float, ...], ...], size: InputSize
) -> tuple[Floats, ...]:
    """Return the anchors of each level, (rows · columns · K, 4) in pixels of the input, cell by cell; kept, read-only.

    Args:
        shapes: (rows, columns) of each level.
        sizes: sides in pixels of the anchors of each level; each comes in three ratios.
        size: of the input.
    """
    levels = []
    for (rows, columns), sides in zip(shapes, sizes, strict=True):
        high = np.sqrt(np.array(RATIOS, np.float32))
        widths = ((1 / high)[:, None] * np.array(sides, np.float32)).ravel()
        heights = (high[:, None] * np.array(sides, np.float32)).ravel()
        base = (np.stack([-widths, -heights, widths, heights], axis=1) / 2).round()
        x = np.arange(columns, dtype=np.float32) * (size.width // columns)
        y = np.arange(rows, dtype=np.float32) * (size.height // rows)
        corner = np.stack([np.tile(x, rows), np.repeat(y, columns)], axis=1)
        levels.append((np.tile(corner, 2)[:, None] + base).reshape(-1, 4).astype(np.float32))
        levels[-1].flags.writeable = False  # the next caller is given the same
    return tuple(levels)


def propose(
    objectness: Sequence[Floats],
    offsets: Sequence[Floats],
    levels: Sequence[Floats],
    count: int,
    least: float,
    shown: Floats,
) -> Floats:
    """Return the best regions of each image, (B, count, 4) in pixels of the input; rows without one are zero.

    Args:
        objectness: per level, logits (B, K, h, w).
        offsets: per level, (B, 4·K, h, w).
        levels: anchors of each level.
        count: of the regions.
        least: score below which a region is none.
        shown: width and height (B, 2) of the pictures in the input, at whose edges regions are cut off.
    """
    proposals = np.zeros((len(objectness[0]), count, 4), np.float32)
    for image in range(len(proposals)):
        boxes, scores, owners = [], [], []
        for level, anchors_of_level in enumerate(levels):
            logits = objectness[level][image].transpose(1, 2, 0).ravel()
            chosen = np.argsort(-logits, kind="stable")[:count]
            moved = offsets[level][image].reshape(-1, 4, *offsets[level].shape[2:]).transpose(2, 3, 0, 1).reshape(-1, 4)
            boxes.append(
                np.clip(decoded(moved[chosen], anchors_of_level[chosen], (1.0,) * 4), 0, np.tile(shown[image], 2))
            )
            scores.append(1 / (1 + np.exp(-logits[chosen])))
            owners.append(np.full(len(chosen), level, np.int64))
        box, score, owner = np.concatenate(boxes), np.concatenate(scores), np.concatenate(owners)
        good = ((box[:, 2:] - box[:, :2]) >= SMALLEST).all(axis=1) & (score >= least)
        box, score, owner = box[good], score[good].astype(np.float32), owner[good]
        order = np.argsort(-score, kind="stable")
        box, score, owner = box[order], score[order], owner[order]
        if len(box):
            kept = suppress(box, score, owner, Thresholds(iou=PROPOSAL_IOU, detections=count))
            proposals[image, : len(kept)] = box[kept]
    return proposals


def decoded(offsets: Floats, boxes: Floats, weights: Sequence[float]) -> Floats:
    """Move boxes (N, 4) by offsets (N, 4): centre in sides, sides in logarithms."""
    own = np.asarray(weights, np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + 0.5 * sides + offsets[:, :2] / own[:2] * sides
    half = 0.5 * np.exp(np.minimum(offsets[:, 2:] / own[2:], np.float32(LARGEST))) * sides
    return np.asarray(np.concatenate([centres - half, centres + half], axis=1), np.float32)


def pooled(maps: Sequence[Floats], regions: Floats, size: InputSize) -> Floats:
    """Return RoIAlign's 7 x 7 parts of each region, (R, C, 7, 7), from the level that suits its size.

    Equal to torchvision's ``MultiScaleRoIAlign`` with two points a side; sampling a region of a map is a matrix
    product from either side.

    Args:
        maps: of one image, finest first, each (C, h, w).
        regions: (R, 4) in pixels of the input.
        size: of the input.
    """
    scales, level = level_of([plane.shape[1] for plane in maps], regions, size)
    parts = np.empty((len(regions), len(maps[0]), POOL, POOL), np.float32)
    for number, plane in enumerate(maps):
        chosen = np.flatnonzero(level == number)
        if len(chosen):
            _align(plane, regions[chosen] * scales[number], parts, chosen)
    return parts


def level_of(heights: Sequence[int], regions: Floats, size: InputSize) -> tuple[list[np.float32], NDArray[np.int64]]:
    """Return the cells per pixel of each map, finest first, and the map (R,) that suits each region's size.

    Args:
        heights: of the maps, in cells.
        regions: (R, 4) in pixels of the input.
        size: of the input.
    """
    scales = [np.float32(2.0 ** round(math.log2(height / size.height))) for height in heights]
    finest, coarsest = -math.log2(scales[0]), -math.log2(scales[-1])
    area = (regions[:, 2:] - regions[:, :2]).prod(axis=1)
    with np.errstate(divide="ignore"):
        level = np.floor(4 + np.log2(np.sqrt(area) / np.float32(224)) + np.float32(1e-6))
    return scales, (np.clip(level, finest, coarsest) - finest).astype(np.int64)


def _align(plane: Floats, boxes: Floats, parts: Floats, rows: NDArray[np.int64]) -> None:
    """Write the parts of boxes (N, 4) in cells of one map (C, h, w) into these rows of all parts (R, C, 7, 7).

    Of each box only the cells that count are multiplied: all of them would not stay in the cache.
    """
    channels, height, width = plane.shape
    across, down = weights(boxes[:, 0], boxes[:, 2], width), weights(boxes[:, 1], boxes[:, 3], height)
    cells = np.ascontiguousarray(plane.transpose(1, 2, 0))  # (h, w, C)
    for box, (row, left, right, top, bottom) in enumerate(zip(rows, *_span(across), *_span(down), strict=True)):
        window = cells[top:bottom, left:right].reshape(bottom - top, (right - left) * channels)
        strips = (down[box, :, top:bottom] @ window).reshape(POOL, right - left, channels)
        np.matmul(strips.transpose(0, 2, 1), across[box, :, left:right].T, out=parts[row].transpose(1, 0, 2))


def _span(counts: Floats) -> tuple[list[int], list[int]]:
    """Return the first cell that counts (R, 7, cells) in any part of each region, and the one after the last."""
    used = (counts != 0).any(axis=1)
    return used.argmax(axis=1).tolist(), (used.shape[1] - used[:, ::-1].argmax(axis=1)).tolist()


def weights(low: Floats, high: Floats, cells: int) -> Floats:
    """Return how much each cell along one side counts in each of the 7 parts, (R, 7, cells): bilinear, two points."""
    part = np.maximum(high - low, 1.0) / POOL
    steps = (np.arange(POOL * SAMPLES, dtype=np.float32) + 0.5) / SAMPLES
    points = low[:, None] + steps * part[:, None]  # (R, 14)
    inside = (points >= -1) & (points <= cells)
    points = np.clip(points, 0, cells - 1)
    first = points.astype(np.int64)
    second = np.minimum(first + 1, cells - 1)
    far = np.where(inside, points - first, 0).astype(np.float32) / SAMPLES
    near = inside.astype(np.float32) / SAMPLES - far
    counts = np.zeros((len(low), POOL, cells), np.float32)
    flat, parts = counts.reshape(-1), np.arange(len(low) * POOL) * cells
    for sample in range(SAMPLES):  # no part has two cells in one of these, so that none is lost
        for cell, share in ((first, near), (second, far)):
            flat[parts + cell[:, sample::SAMPLES].ravel()] += share[:, sample::SAMPLES].ravel()
    return counts


def decode(raw: Sequence[Floats], thresholds: Thresholds) -> list[Detections]:
    """Turn raw maps into detections.

    Args:
        raw: regions (B, R, 4), zero where there is none; class logits (B, R, C + 1), background first; offsets
            (B, R, 4·(C + 1)); width and height (B, 2) of the pictures in the input.
        thresholds: what is kept.
    """
    regions, logits, offsets, shown = raw
    return [_decode_image(regions[i], logits[i], offsets[i], shown[i], thresholds) for i in range(len(regions))]


def _decode_image(
    regions: Floats, logits: Floats, offsets: Floats, shown: Floats, thresholds: Thresholds
) -> Detections:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores = exponentials / exponentials.sum(axis=1, keepdims=True)
    scores[(regions[:, 2:] <= regions[:, :2]).any(axis=1)] = 0
    classes = scores.shape[1] - 1
    flat = np.ascontiguousarray(scores[:, 1:]).ravel()
    chosen = best_candidates(flat, thresholds)
    if not len(chosen):
        return no_detections()
    at, labels = np.divmod(chosen, classes)
    moved = offsets.reshape(len(regions), classes + 1, 4)[at, labels + 1]
    boxes = np.clip(decoded(moved, regions[at], WEIGHTS), 0, np.tile(shown, 2))
    there = (boxes[:, 2:] - boxes[:, :2] >= SMALLEST_BOX).all(axis=1)
    boxes, chosen, labels = boxes[there], chosen[there], labels[there]
    if not len(boxes):
        return no_detections()
    kept = suppress(boxes, flat[chosen], labels, thresholds)
    return Detections(boxes[kept], flat[chosen[kept]], labels[kept])
