"""Mean average precision by pycocotools, the field's oracle. Lin et al., Microsoft COCO, ECCV 2014."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.structures import Annotations, Detections, Floats

MOST_DETECTIONS = 100
"""Of a class in an image, best first: COCO's own limit."""
_EVERYTHING = [0.0, 1e10]
_IOU_50, _IOU_75 = 0, 5
"""Places in COCO's thresholds 0.50, 0.55, … 0.95."""


@dataclass(frozen=True)
class Averages:
    """Average precisions; None where there is no ground truth."""

    map: float | None
    map50: float | None
    map75: float | None
    per_class: tuple[float | None, ...]


def average_precisions(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> Averages:
    """Evaluate with COCO's rules: IoU 0.50:0.95, objects of all sizes, 100 detections of a class in an image.

    Annotations to ignore are COCO's crowds: detections on them are neither hits nor misses.

    Raises:
        ValueError: not as many detections as annotations.
    """
    if len(detections) != len(annotations):
        raise ValueError(f"{len(detections)} images with detections, {len(annotations)} with annotations")
    precision = run(detections, annotations, num_classes).eval["precision"]
    precision = precision[:, :, :, 0, 0]  # (IoUs, recalls, classes); one range of areas, one limit of detections
    return Averages(
        map=_mean(precision),
        map50=_mean(precision[_IOU_50]),
        map75=_mean(precision[_IOU_75]),
        per_class=tuple(_mean(precision[:, :, index]) for index in range(num_classes)),
    )


def run(detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int) -> Any:
    """Return pycocotools' COCOeval after matching and accumulating."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = COCO(), COCO()
    truth.dataset = ground_truth(annotations, num_classes)
    results.dataset = {**truth.dataset, "annotations": _results(detections)}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it is doing
        truth.createIndex()
        results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        # small, medium and large objects apart would take four times as long, and nobody asks for them
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [_EVERYTHING], ["all"]
        evaluation.params.maxDets = [MOST_DETECTIONS]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def ground_truth(annotations: Sequence[Annotations], num_classes: int) -> dict[str, Any]:
    """Return annotations as a COCO dataset; image ids and category ids count from 1."""
    boxes: list[dict[str, Any]] = []
    for image, truth in enumerate(annotations, start=1):
        for box, label, ignore in zip(_xywh(truth.boxes), truth.labels, truth.ignore, strict=True):
            boxes.append(_row(len(boxes) + 1, image, label, box, iscrowd=int(ignore)))
    return {
        "info": {},
        "images": [{"id": index} for index in range(1, len(annotations) + 1)],
        "categories": [{"id": index} for index in range(1, num_classes + 1)],
        "annotations": boxes,
    }


def _results(detections: Sequence[Detections]) -> list[dict[str, Any]]:
    """Return detections in the form that pycocotools' ``loadRes`` gives them; it refuses an empty list."""
    rows: list[dict[str, Any]] = []
    for image, found in enumerate(detections, start=1):
        for box, score, label in zip(_xywh(found.boxes), found.scores, found.labels, strict=True):
            rows.append(_row(len(rows) + 1, image, label, box, iscrowd=0, score=float(score)))
    return rows


def _row(number: int, image: int, label: np.int64, box: NDArray[np.float64], **more: float) -> dict[str, Any]:
    x, y, width, height = box.tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": int(label) + 1,
        "bbox": [x, y, width, height],
        "area": width * height,
        **more,
    }


def _xywh(boxes: Floats) -> NDArray[np.float64]:
    corners = boxes.astype(np.float64).reshape(-1, 4)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _mean(precision: NDArray[np.float64]) -> float | None:
    known = precision[precision > -1]  # -1 marks classes without ground truth
    return float(known.mean()) if known.size else None
