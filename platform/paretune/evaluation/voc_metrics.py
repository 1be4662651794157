"""Average precision by Pascal VOC's rules. Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010.

Its own matching: each detection, best score first, goes to the object of its class that it overlaps most, taken
or not; on one that is taken it is a miss, on a difficult one nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections, Floats
from paretune.evaluation.matching import IOU, matched_by, overlap

Rule = Literal["07", "10"]
"""``07``: the mean of the precision at eleven recalls; ``10``, since 2010: the area under the whole curve."""


def voc_aps(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> dict[Rule, list[float | None]]:
    """Return the average precision of each class at IoU 0.50 by both rules; None for a class without objects.

    Entries to ignore are VOC's difficult objects.
    """
    curves = _curves(detections, annotations, num_classes)
    return {
        "07": [None if curve is None else _eleven_points(*curve) for curve in curves],
        "10": [None if curve is None else _area(*curve) for curve in curves],
    }


def _curves(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]] | None]:
    """Return recall and precision of each class at each confidence, the highest first; None without objects."""
    curves: list[tuple[NDArray[np.float64], NDArray[np.float64]] | None] = []
    for matched in matched_by(_match_class, detections, annotations, num_classes):
        right, there = np.cumsum(matched.hits), matched.objects
        curves.append((right / there, right / np.arange(1, len(right) + 1)) if there else None)
    return curves


def _match_class(
    boxes: Floats, truth: Floats, difficult: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return for each detection, best first, whether it is a hit and whether it counts."""
    overlaps = overlap(boxes, truth, np.zeros(len(truth), bool))
    hit, counts = np.zeros(len(boxes), bool), np.ones(len(boxes), bool)
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
    points = [precision[recall >= level - 1e-12] for level in np.linspace(0, 1, 11)]
    return float(np.mean([part.max() if part.size else 0.0 for part in points]))


def _area(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.diff(recall, prepend=0.0)
    return float((envelope * steps).sum())
