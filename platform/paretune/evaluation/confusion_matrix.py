"""What is taken for what: the confusion matrix of detections, and the images with the most mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections
from paretune.evaluation.matching import IOU, overlap


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts at one confidence, IoU 0.50."""

    matrix: NDArray[np.int64]
    """(C + 1, C + 1): rows are true classes, then the background; columns are detected classes, then nothing. The last
    column counts missed objects, the last row detections where there is no object."""
    wrong: NDArray[np.int64]
    """(images,) number of detections that are no object of their class."""
    missed: NDArray[np.int64]
    """(images,) and objects that nothing of their class was found on."""


def confusion(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int, confidence: float
) -> ConfusionMatrix:
    """Match detections with objects of any class: best score first, each with the free object it overlaps most.

    Of equal overlaps an object of its own class comes first. Detections on annotations to ignore count nowhere.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    wrong, missed = (np.zeros(len(annotations), np.int64) for _ in range(2))
    for image, (detected, truth) in enumerate(zip(detections, annotations, strict=True)):
        kept = detected.scores >= detected.scores.dtype.type(confidence)  # float64 in results files
        order = np.argsort(-detected.scores[kept], kind="stable")
        boxes, labels = detected.boxes[kept][order], detected.labels[kept][order]
        overlaps = overlap(boxes, truth.boxes, truth.ignore)
        free = ~truth.ignore
        for row, label in zip(overlaps, labels, strict=True):
            objects = np.flatnonzero(free & (row >= IOU))
            if objects.size:
                ranked = sorted(objects, key=lambda o: (row[o], truth.labels[o] == label))
                best = ranked[-1]
                free[best] = False
                matrix[truth.labels[best], label] += 1
                same = bool(truth.labels[best] == label)
                wrong[image] += not same
                missed[image] += not same
            elif not (row[truth.ignore] >= IOU).any():
                matrix[num_classes, label] += 1
                wrong[image] += 1
        for label in truth.labels[free]:
            matrix[label, num_classes] += 1
            missed[image] += 1
    return ConfusionMatrix(matrix, wrong, missed)
