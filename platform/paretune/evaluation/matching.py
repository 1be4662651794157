"""Precision, recall and F1 at an IoU (0.50 by default), by the greedy matching of COCO's evaluation.

Lin et al., Microsoft COCO, ECCV 2014. F1 is van Rijsbergen's, Information Retrieval, 1979: the
harmonic mean of precision and recall. All classes are counted together (micro-averaged).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections, Floats

IOU = 0.5
Rule = Callable[[Floats, Floats, NDArray[np.bool_]], tuple[NDArray[np.bool_], NDArray[np.bool_]]]
"""Boxes (N, 4) of one class in one image, best first, its objects (M, 4), which of these (M,) to ignore → which boxes
(N,) are hits, and which (N,) count."""


@dataclass(frozen=True)
class OperatingPoint:
    """Precision and recall of the detections of at least one confidence."""

    confidence: float | None
    """None when there is nothing to choose it by."""
    precision: float | None
    """None when nothing is kept."""
    recall: float | None
    """None when there are no objects."""
    f1: float | None
    """None when there are no objects."""
    objects: int
    """Objects to be found."""


@dataclass(frozen=True)
class MatchedDetections:
    """Every detection that counts, of all images, with the number of objects there are."""

    scores: Floats
    """(N,) best first."""
    hits: NDArray[np.bool_]
    """(N,)."""
    objects: int


def best_of(matched: MatchedDetections) -> OperatingPoint:
    """Return the operating point of the best F1 over all confidences; of several, that of the highest confidence."""
    if matched.objects == 0:
        return OperatingPoint(None, None, None, None, 0)
    if matched.scores.size == 0:
        return _point(None, 0, 0, matched.objects)
    hits = np.cumsum(matched.hits)
    kept = np.arange(1, hits.size + 1)
    last_of_score = np.append(matched.scores[1:] != matched.scores[:-1], True)  # one cuts between scores only
    f1 = np.where(last_of_score, 2 * hits / (kept + matched.objects), -1)
    best = int(f1.argmax())
    return _point(float(matched.scores[best]), int(hits[best]), int(kept[best]), matched.objects)


def point_of(matched: MatchedDetections, confidence: float) -> OperatingPoint:
    """Return the operating point at a given confidence."""
    kept = matched.scores >= matched.scores.dtype.type(confidence)  # float64 in results files
    return _point(confidence, int(matched.hits[kept].sum()), int(kept.sum()), matched.objects)


def _point(confidence: float | None, hits: int, kept: int, objects: int) -> OperatingPoint:
    return OperatingPoint(
        confidence=confidence,
        precision=hits / kept if kept else None,
        recall=hits / objects if objects else None,
        f1=2 * hits / (kept + objects) if objects else None,
        objects=objects,
    )


def match_by_class(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int, iou: float = IOU
) -> list[MatchedDetections]:
    """Match detections with objects: best score first, each with the free object of its class it overlaps most.

    A detection that finds no free object but lies on an annotation to ignore counts neither as hit nor as
    miss; as in COCO, such an annotation takes any number of detections, by the share of each inside it.

    Args:
        detections: of each image.
        annotations: of the same images, in the same order.
        num_classes: of the dataset.
        iou: from which a detection is a hit.

    Returns:
        The detections of each class that count.

    Raises:
        ValueError: not as many detections as annotations.
    """
    enough = min(iou, 1 - 1e-10)  # pycocotools' own: equal boxes overlap by a little less than 1
    return matched_by(partial(_match_class, enough=enough), detections, annotations, num_classes)


def matched_by(
    rule: Rule, detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> list[MatchedDetections]:
    """Return the detections of each class that count, best first, by a rule of matching.

    Args:
        rule: how the detections of one class in one image are matched.
        detections: of each image.
        annotations: of the same images, in the same order.
        num_classes: of the dataset.

    Raises:
        ValueError: not as many detections as annotations.
    """
    parts = [_match_image(rule, detected, truth) for detected, truth in zip(detections, annotations, strict=True)]
    labels = np.concatenate([np.zeros(0, np.int64), *(detected.labels for detected in detections)])
    scores = np.concatenate([np.zeros(0, np.float32), *(detected.scores for detected in detections)])
    hits, counts = (np.concatenate([np.zeros(0, bool), *(part[i] for part in parts)]) for i in range(2))
    objects = np.zeros(num_classes, np.int64)
    for truth in annotations:
        np.add.at(objects, truth.labels[~truth.ignore], 1)
    order = np.argsort(-scores, kind="stable")
    order = order[counts[order]]
    ranked = [order[labels[order] == label] for label in range(num_classes)]
    return [MatchedDetections(scores[own], hits[own], int(there)) for own, there in zip(ranked, objects, strict=True)]


def match(detections: Sequence[Detections], annotations: Sequence[Annotations], iou: float = IOU) -> MatchedDetections:
    """Match the same way and return all classes as one.

    Raises:
        ValueError: not as many detections as annotations.
    """
    labels = [*(detected.labels for detected in detections), *(truth.labels for truth in annotations)]
    count = max((int(own.max(initial=-1)) for own in labels), default=-1) + 1
    return together(match_by_class(detections, annotations, count, iou))


def together(classes: Sequence[MatchedDetections]) -> MatchedDetections:
    """Return what has been matched by class as one."""
    scores = np.concatenate([np.zeros(0, np.float32), *(entry.scores for entry in classes)])
    hits = np.concatenate([np.zeros(0, bool), *(entry.hits for entry in classes)])
    order = np.argsort(-scores, kind="stable")
    return MatchedDetections(scores[order], hits[order], sum(entry.objects for entry in classes))


def _match_image(rule: Rule, found: Detections, truth: Annotations) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection whether it is a hit and whether it counts."""
    hit, counts = np.zeros(len(found.scores), bool), np.ones(len(found.scores), bool)
    for label in {*found.labels.tolist()} & {*truth.labels.tolist()}:
        own = np.flatnonzero(found.labels == label)
        own = own[np.argsort(-found.scores[own], kind="stable")]
        same_class = truth.labels == label
        hit[own], counts[own] = rule(found.boxes[own], truth.boxes[same_class], truth.ignore[same_class])
    return hit, counts


def _match_class(
    boxes: Floats, truth: Floats, ignore: NDArray[np.bool_], enough: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection, best first, whether it is a hit and whether it counts."""
    hit, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
    overlaps = overlap(boxes, truth, ignore)
    free = ~ignore
    # only a detection that overlaps something enough can be anything but a miss: few are left for the loop
    for index in np.flatnonzero((overlaps >= enough).any(axis=1)):
        row = overlaps[index]
        objects = np.flatnonzero(free & (row >= enough))
        if objects.size:
            best = objects[row[objects] == row[objects].max()][-1]  # of equal ones the last, as pycocotools does
            hit[index], free[best] = True, False
        else:
            counts[index] = not (row[ignore] >= enough).any()
    return hit, counts


def overlap(boxes: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the intersection over union (N, M) of boxes (N, 4) and (M, 4).

    For crowds (M,) it is the intersection over the area of the first alone.
    """
    ones, others = boxes.astype(np.float64)[:, None], truth.astype(np.float64)[None]
    sides = np.minimum(ones[..., 2:], others[..., 2:]) - np.maximum(ones[..., :2], others[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    area = (ones[..., 2:] - ones[..., :2]).prod(-1)
    union = np.where(crowd, area, area + (others[..., 2:] - others[..., :2]).prod(-1) - shared)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
