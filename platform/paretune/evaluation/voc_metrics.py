"""Average precision by Pascal VOC's rules. Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010.

Its own matching: each detection, best score first, goes to the object of its class that it overlaps most, taken
or not; on one that is taken it is a miss, on a difficult one nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections
from paretune.evaluation.matching import overlap

IOU = 0.5
Rule = Literal["07", "10"]
"""``07``: the mean of the precision at eleven recalls; ``10``, since 2010: the area under the whole curve."""


def voc_ap(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int, rule: Rule = "10"
) -> list[float | None]:
    """Return the average precision of each class at IoU 0.50; None for a class without objects.

    Entries to ignore are VOC's difficult ones.
    """
    return voc_aps(detections, annotations, num_classes)[rule]


def voc_aps(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> dict[Rule, list[float | None]]:
    """Return the same by both rules."""
    curves = _curves(detections, annotations, num_classes)
    return {
        "07": [None if curve is None else _eleven_points(*curve) for curve in curves],
        "10": [None if curve is None else _area(*curve) for curve in curves],
    }


def _curves(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
    """Return recall and precision of each class at each confidence, the highest first; None without objects."""
    parts = [_match_image(found, truth) for found, truth in zip(detections, annotations, strict=True)]
    labels = np.concatenate([np.zeros(0, np.int64), *(found.labels for found in detections)])
    scores = np.concatenate([np.zeros(0), *(found.scores.astype(np.float64) for found in detections)])
    hits, counts = (np.concatenate([np.zeros(0, bool), *(part[i] for part in parts)]) for i in range(2))
    objects = np.zeros(num_classes, np.int64)
    for truth in annotations:
        np.add.at(objects, truth.labels[~truth.ignore], 1)
    order = np.argsort(-scores, kind="stable")
    order = order[counts[order]]
    curves: list[tuple[NDArray[np.float64], NDArray[np.float64]] | None] = []
    for label, there in enumerate(objects):
        right = np.cumsum(hits[order[labels[order] == label]])
        curves.append((right / there, right / np.arange(1, len(right) + 1)) if there else None)
    return curves


def _match_image(found: Detections, truth: Annotations) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection whether it is a hit and whether it counts."""
    hit, counts = np.zeros(len(found.scores), bool), np.ones(len(found.scores), bool)
    for label in {*found.labels.tolist()} & {*truth.labels.tolist()}:
        mine, theirs = np.flatnonzero(found.labels == label), truth.labels == label
        mine = mine[np.argsort(-found.scores[mine], kind="stable")]
        overlaps = overlap(found.boxes[mine], truth.boxes[theirs], np.zeros(int(theirs.sum()), bool))
        hit[mine], counts[mine] = _match(overlaps, truth.ignore[theirs])
    return hit, counts


def _match(overlaps: NDArray[np.float64], difficult: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection, best first, whether it is a hit and whether it counts."""
    count = len(overlaps)
    hit, counts = np.zeros(count, bool), np.ones(count, bool)
    taken: set[int] = set()
    for index, best in enumerate(overlaps.argmax(axis=1)):
        if overlaps[index, best] < IOU:
            continue
        if difficult[best]:
            counts[index] = False
        elif int(best) not in taken:
            hit[index] = True
            taken.add(int(best))
    return hit, counts


def _eleven_points(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    points = [precision[recall >= wanted - 1e-12] for wanted in np.linspace(0, 1, 11)]
    return float(np.mean([part.max() if part.size else 0.0 for part in points]))


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    return float((envelope * steps).sum())
