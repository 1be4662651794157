"""Precision, recall and F1 at IoU 0.50, by COCO's greedy matching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.structures import Annotations, Detections, Floats

IOU = 0.5


@dataclass(frozen=True)
class Operating:
    """One operating point: what comes of keeping detections of at least this confidence."""

    confidence: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Matched:
    """Every detection that counts, of all images and classes, with the number of objects there are."""

    scores: Floats
    """(N,) best first."""
    hits: NDArray[np.bool_]
    """(N,)."""
    objects: int


def best_f1(detections: Sequence[Detections], annotations: Sequence[Annotations]) -> Operating | None:
    """Return the operating point of the best F1 over all confidences; None when there are no objects."""
    matched = match(detections, annotations)
    if matched.objects == 0:
        return None
    if matched.scores.size == 0:
        return Operating(1.0, 0.0, 0.0, 0.0)
    hits = np.cumsum(matched.hits)
    kept = np.arange(1, hits.size + 1)
    # F1 = 2 hits / (detections + objects); only between different scores can one cut
    last = np.append(matched.scores[1:] != matched.scores[:-1], True)
    f1 = np.where(last, 2 * hits / (kept + matched.objects), -1)
    best = int(f1.argmax())
    return _point(float(matched.scores[best]), int(hits[best]), int(kept[best]), matched.objects)


def at_confidence(
    detections: Sequence[Detections], annotations: Sequence[Annotations], confidence: float
) -> Operating | None:
    """Return the operating point at a given confidence; None when there are no objects."""
    matched = match(detections, annotations)
    if matched.objects == 0:
        return None
    kept = matched.scores >= confidence
    return _point(confidence, int(matched.hits[kept].sum()), int(kept.sum()), matched.objects)


def _point(confidence: float, hits: int, kept: int, objects: int) -> Operating:
    f1 = 2 * hits / (kept + objects)
    return Operating(confidence, hits / kept if kept else 0.0, hits / objects, f1)


def match(detections: Sequence[Detections], annotations: Sequence[Annotations]) -> Matched:
    """Match detections with objects: best score first, each with the free object of its class it overlaps most.

    A detection whose best match is an annotation to ignore counts neither as hit nor as miss; as in COCO,
    such an annotation takes any number of detections, by the share of the detection inside it.
    """
    scores, hits, objects = [np.zeros(0, np.float32)], [np.zeros(0, bool)], 0
    for found, truth in zip(detections, annotations, strict=True):
        objects += int((~truth.ignore).sum())
        for label in np.unique(found.labels):
            mine = np.flatnonzero(found.labels == label)
            mine = mine[np.argsort(-found.scores[mine], kind="stable")]
            theirs = truth.labels == label
            hit, counts = _match_class(found.boxes[mine], truth.boxes[theirs], truth.ignore[theirs])
            scores.append(found.scores[mine][counts])
            hits.append(hit[counts])
    all_scores, all_hits = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-all_scores, kind="stable")
    return Matched(all_scores[order], all_hits[order], objects)


def _match_class(
    boxes: Floats, truth: Floats, ignore: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection, best first, whether it is a hit and whether it counts."""
    hit, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    if not len(truth):
        return hit, counts
    overlaps = overlap(boxes, truth, ignore)
    free = ~ignore
    for index, row in enumerate(overlaps):
        real = np.where(free, row, -1)
        best = int(real.argmax())
        if real[best] >= IOU:
            hit[index], free[best] = True, False
        elif (row[ignore] >= IOU).any():
            counts[index] = False
    return hit, counts


def overlap(boxes: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return intersection over union (N, M); for crowds over the area of the detection alone."""
    ones, others = boxes.astype(np.float64)[:, None], truth.astype(np.float64)[None]
    sides = np.minimum(ones[..., 2:], others[..., 2:]) - np.maximum(ones[..., :2], others[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    area = (ones[..., 2:] - ones[..., :2]).prod(-1)
    union = np.where(crowd, area, area + (others[..., 2:] - others[..., :2]).prod(-1) - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
