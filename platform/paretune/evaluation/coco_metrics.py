"""Mean average precision and recall by COCO's rules. Lin et al., Microsoft COCO, ECCV 2014.

Computed by hotcoco, which is a hundred times as fast as pycocotools; tests hold its numbers equal to pycocotools'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import LIMIT, Annotations, Detections, Floats

_IOU_50, _IOU_75 = 0, 5
"""Places in COCO's thresholds 0.50, 0.55, … 0.95."""
_ALL, _SIZES = 0, {"small": 1, "medium": 2, "large": 3}
"""Places of COCO's ranges of areas: all, below 32², 32² to 96², and above, in square pixels."""


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's twelve numbers; None where there is no ground truth."""

    map: float | None
    """Mean average precision: IoU 0.50:0.95, at most 100 detections of a class in an image."""
    map50: float | None
    """Mean average precision at IoU 0.50."""
    map75: float | None
    """Mean average precision at IoU 0.75."""
    map_small: float | None
    """``map`` of small objects: below 32² square pixels."""
    map_medium: float | None
    """``map`` of medium objects: 32² to 96² square pixels."""
    map_large: float | None
    """``map`` of large objects: above 96² square pixels."""
    ar1: float | None
    """Average recall over IoU 0.50:0.95 with at most one detection of a class in an image."""
    ar10: float | None
    """Average recall over IoU 0.50:0.95 with at most 10 detections of a class in an image."""
    ar100: float | None
    """Average recall over IoU 0.50:0.95 with at most 100 detections of a class in an image."""
    ar_small: float | None
    """``ar100`` of small objects."""
    ar_medium: float | None
    """``ar100`` of medium objects."""
    ar_large: float | None
    """``ar100`` of large objects."""

    def numbers(self) -> dict[str, float | None]:
        """Return the twelve by name, in COCO's order."""
        return {name: getattr(self, name) for name in NUMBERS}


NUMBERS = tuple(field.name for field in fields(CocoMetrics))
"""Names of the twelve, in COCO's order."""


@dataclass(frozen=True)
class CocoMetricsByClass(CocoMetrics):
    """COCO's twelve numbers, and average precision (0.50:0.95) of each class."""

    per_class: tuple[float | None, ...]
    ar_limit: float | None = None
    """Average recall with as many detections as ``map`` is made of."""


@dataclass(frozen=True)
class MetricsAtIou:
    """COCO's numbers at one IoU."""

    map: float | None
    """Mean average precision."""
    ar100: float | None
    """Mean recall of at most 100 detections of a class in an image."""
    per_class: tuple[float | None, ...]
    """Average precision of each class."""


def average_precisions(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    limit: int = LIMIT,
) -> CocoMetricsByClass:
    """Evaluate by COCO's rules.

    Annotations to ignore are COCO's crowds: detections on them are neither hits nor misses. With another ``limit``,
    ``map`` and all of its kind are pycocotools' with ``maxDets`` set to it; the recalls stay what they are called.

    Raises:
        ValueError: not as many detections as annotations.
    """
    check_lengths(detections, annotations)
    return metrics_of(coco_eval(detections, annotations, num_classes, limit=limit), num_classes, limit)


def check_lengths(detections: Sequence[Detections], annotations: Sequence[Annotations]) -> None:
    """Raise an error unless detections and annotations are of as many images.

    Raises:
        ValueError: they are not.
    """
    if len(detections) != len(annotations):
        raise ValueError(f"{len(detections)} images with detections, {len(annotations)} with annotations")


def limits_of(limit: int) -> list[int]:
    """Return the limits of detections that an evaluation needs, in rising order: COCO's three and the one asked for."""
    return sorted({1, 10, LIMIT, limit})


def metrics_of(evaluation: Any, num_classes: int, limit: int = LIMIT) -> CocoMetricsByClass:
    """Return the numbers of a COCOeval, also pycocotools', after ``accumulate``, which ran at ``limits_of(limit)``."""
    limits = limits_of(limit)
    most, ten, hundred = map(limits.index, (limit, 10, LIMIT))
    precision = np.asarray(evaluation.eval["precision"])[..., most]  # (IoUs, recalls, classes, areas)
    recall = np.asarray(evaluation.eval["recall"])  # (IoUs, classes, areas, limits)
    return CocoMetricsByClass(
        map=_mean(precision[..., _ALL]),
        map50=_mean(precision[_IOU_50, ..., _ALL]),
        map75=_mean(precision[_IOU_75, ..., _ALL]),
        **{f"map_{size}": _mean(precision[..., place]) for size, place in _SIZES.items()},
        ar1=_mean(recall[..., _ALL, 0]),
        ar10=_mean(recall[..., _ALL, ten]),
        ar100=_mean(recall[..., _ALL, hundred]),
        **{f"ar_{size}": _mean(recall[..., place, hundred]) for size, place in _SIZES.items()},
        per_class=tuple(_mean(precision[:, :, index, _ALL]) for index in range(num_classes)),
        ar_limit=_mean(recall[..., _ALL, most]),
    )


def metrics_at(evaluation: Any, num_classes: int, limit: int = LIMIT) -> MetricsAtIou:
    """Return the numbers of a COCOeval of one IoU after ``accumulate``, which ran at ``limits_of(limit)``."""
    limits = limits_of(limit)
    precision = np.asarray(evaluation.eval["precision"])[0, ..., _ALL, limits.index(limit)]  # (recalls, classes)
    recall = np.asarray(evaluation.eval["recall"])[0, :, _ALL, limits.index(LIMIT)]
    return MetricsAtIou(
        map=_mean(precision),
        ar100=_mean(recall),
        per_class=tuple(_mean(precision[:, index]) for index in range(num_classes)),
    )


def coco_eval(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    iou: float | None = None,
    limit: int = LIMIT,
) -> Any:
    """Return hotcoco's COCOeval after matching and accumulating, at one IoU or at COCO's ten."""
    images, categories = range(1, len(annotations) + 1), range(1, num_classes + 1)
    return by_hotcoco(images, categories, ground_truth_columns(annotations), result_rows(detections), iou, limit)


@dataclass(frozen=True)
class GroundTruthColumns:
    """A ground truth as columns, a row for each object."""

    images: NDArray[np.int64]
    """(N,) id of the object's image."""
    categories: NDArray[np.int64]
    """(N,) id of the object's category."""
    boxes: NDArray[np.float64]
    """(N, 4) x, y, width, height."""
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]


def by_hotcoco(
    images: Sequence[int],
    categories: Sequence[int],
    objects: GroundTruthColumns,
    results: NDArray[np.float64],
    iou: float | None = None,
    limit: int = LIMIT,
) -> Any:
    """Return hotcoco's COCOeval after matching and accumulating.

    Args:
        images: ids of all images, also of those without objects.
        categories: ids of all categories.
        objects: the ground truth.
        results: (M, 7) image id, x, y, width, height, score, category id.
        iou: the only IoU to evaluate at; None takes COCO's ten.
        limit: most detections of a class in an image that count.
    """
    evaluation = engine_of(images, categories, objects, results)
    evaluation.params.maxDets = limits_of(limit)
    if iou is not None:
        evaluation.params.iouThrs = [iou]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def engine_of(
    images: Sequence[int], categories: Sequence[int], objects: GroundTruthColumns, results: NDArray[np.float64]
) -> Any:
    """Return hotcoco's COCOeval before matching; the arguments are those of ``by_hotcoco``."""
    import hotcoco

    truth = hotcoco.COCO.from_arrays(
        [{"id": number} for number in images],
        [{"id": number, "name": str(number)} for number in categories],
        objects.images,
        objects.categories,
        objects.boxes,
        area=objects.areas,
        iscrowd=objects.crowds.astype(np.int64),
    )
    return hotcoco.COCOeval(truth, truth.loadRes(results), "bbox")


def ground_truth_columns(annotations: Sequence[Annotations]) -> GroundTruthColumns:
    """Return the annotations of images as a ground truth; images and categories are numbered from 1."""
    boxes, owners = _joined([truth.boxes for truth in annotations])
    return GroundTruthColumns(
        owners,
        np.concatenate([np.zeros(0, np.int64), *(entry.labels for entry in annotations)]) + 1,
        boxes,
        np.concatenate([np.zeros(0), *(_areas(entry) for entry in annotations)]),
        np.concatenate([np.zeros(0, bool), *(entry.ignore for entry in annotations)]),
    )


def result_rows(detections: Sequence[Detections]) -> NDArray[np.float64]:
    """Return detections as ``by_hotcoco`` takes them; ids count from 1."""
    boxes, owners = _joined([image.boxes for image in detections])
    scores = np.concatenate([np.zeros(0), *(image.scores.astype(np.float64) for image in detections)])
    labels = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in detections)])
    return np.column_stack([owners.astype(np.float64), boxes, scores, labels + 1.0])


def _joined(boxes: Sequence[Floats]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the boxes of all images as x, y, width, height, and which image each belongs to, from 1."""
    owners = np.repeat(np.arange(1, len(boxes) + 1), [len(entry) for entry in boxes])
    return _xywh(np.concatenate([np.zeros((0, 4), np.float32), *boxes])), owners


def _areas(truth: Annotations) -> NDArray[np.float64]:
    if truth.areas is not None:
        return truth.areas.astype(np.float64)
    return np.asarray(_xywh(truth.boxes)[:, 2:].prod(axis=1))


def _xywh(boxes: Floats) -> NDArray[np.float64]:
    corners = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[values > -1]  # -1 marks classes without ground truth
    return float(known.mean()) if known.size else None
