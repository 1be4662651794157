"""Average precision by Pascal VOC's rules. Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010.

Its own matching: each detection, best score first, goes to the object of its class that it overlaps most, taken
or not; on one that is taken it is a miss, on a difficult one nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paretune.evaluation.matching import overlap
from paretune.structures import Annotations, Detections

IOU = 0.5
Rule = Literal["07", "10"]
"""``07``: the mean of the precision at eleven recalls; ``10``, since 2010: the area under the whole curve."""


def voc_ap(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int, rule: Rule = "10"
) -> list[float | None]:
    """Return the average precision of each class at IoU 0.50; None for a class without objects.

    Entries to ignore are VOC's difficult ones.
    """
    return [_of_class(detections, annotations, label, rule) for label in range(num_classes)]


def _of_class(
    detections: Sequence[Detections], annotations: Sequence[Annotations], label: int, rule: Rule
) -> float | None:
    scores, hits, counts, objects = [np.zeros(0)], [np.zeros(0, bool)], [np.zeros(0, bool)], 0
    for found, truth in zip(detections, annotations, strict=True):
        theirs = truth.labels == label
        objects += int((~truth.ignore[theirs]).sum())
        mine = found.labels == label
        order = np.argsort(-found.scores[mine], kind="stable")
        boxes = found.boxes[mine][order]
        hit, counted = _match(
            overlap(boxes, truth.boxes[theirs], np.zeros(int(theirs.sum()), bool)), truth.ignore[theirs]
        )
        scores.append(found.scores[mine][order].astype(np.float64))
        hits.append(hit)
        counts.append(counted)
    if not objects:
        return None
    every, counted = np.concatenate(hits), np.concatenate(counts)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    order = order[counted[order]]
    right = np.cumsum(every[order])
    recall, precision = right / objects, right / np.arange(1, len(right) + 1)
    return _eleven_points(recall, precision) if rule == "07" else _area(recall, precision)


def _match(overlaps: NDArray[np.float64], difficult: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection, best first, whether it is a hit and whether it counts."""
    count = len(overlaps)
    hit, counts = np.zeros(count, bool), np.ones(count, bool)
    if not overlaps.shape[1]:
        return hit, counts
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
