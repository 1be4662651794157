"""What became of each detection by COCO's matching, at each of its thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import LIMIT, Annotations, Detections
from paretune.evaluation.coco_metrics import (
    GroundTruthColumns,
    check_lengths,
    engine_of,
    ground_truth_columns,
    result_rows,
)


@dataclass(frozen=True)
class DetectionOutcomes:
    """What became of everything detected of one class, best score first."""

    image: NDArray[np.int64]
    """(D,) index of each detection's image."""
    hit: NDArray[np.bool_]
    """(IoUs, D)."""
    ignored: NDArray[np.bool_]
    """(IoUs, D) on a crowd, where a detection is neither hit nor miss."""
    objects: NDArray[np.int64]
    """(images,) to be found in each image."""


def outcomes_by_class(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int, limit: int = LIMIT
) -> list[DetectionOutcomes]:
    """Return COCO's matching of each class: at most ``limit`` detections an image, at IoU 0.50, 0.55, … 0.95.

    Raises:
        ValueError: not as many detections as annotations.
    """
    check_lengths(detections, annotations)
    truth, rows = ground_truth_columns(annotations), result_rows(detections)
    image, label, scores = rows[:, 0].astype(np.int64) - 1, rows[:, 6].astype(np.int64) - 1, rows[:, 5]
    place = image * num_classes + label
    # the engine tells its matches as Python objects, a dozen for each class in each image: it is asked only where
    # there is something to match
    asked = np.flatnonzero(np.isin(place, (truth.images - 1) * num_classes + truth.categories - 1))
    hit, ignored = np.zeros((10, len(rows)), bool), np.zeros((10, len(rows)), bool)
    hit[:, asked], ignored[:, asked] = _flags(range(1, len(annotations) + 1), num_classes, truth, rows[asked], limit)
    counted = ~truth.crowds
    objects = np.zeros((num_classes, len(annotations)), np.int64)
    np.add.at(objects, (truth.categories[counted] - 1, truth.images[counted] - 1), 1)
    order = np.lexsort((-scores, place))
    first = np.searchsorted(place[order], place[order])
    order = order[np.arange(len(order)) - first < limit]
    order = order[np.argsort(-scores[order], kind="stable")]  # of equal scores the first image's, as in COCO
    ranked = [order[label[order] == number] for number in range(num_classes)]
    return [
        DetectionOutcomes(image[own], hit[:, own], ignored[:, own], there)
        for own, there in zip(ranked, objects, strict=True)
    ]


def _flags(
    images: Sequence[int], num_classes: int, truth: GroundTruthColumns, found: NDArray[np.float64], limit: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which rows of ``found`` are hits, and which are to be ignored, each (IoUs, rows)."""
    evaluation = engine_of(images, range(1, num_classes + 1), truth, found)
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [limit]
    evaluation.evaluate()
    entries = [entry for entry in evaluation.evalImgs if entry and entry["dtIds"]]
    rows = np.fromiter(chain.from_iterable(entry["dtIds"] for entry in entries), np.int64) - 1
    matched, ignored = np.zeros((10, len(found)), bool), np.zeros((10, len(found)), bool)
    for flags, name in ((matched, "dtMatched"), (ignored, "dtIgnore")):
        for iou in range(10):
            flags[iou, rows] = np.fromiter(chain.from_iterable(entry[name][iou] for entry in entries), bool)
    return matched & ~ignored, ignored
