"""Mean average precision by pycocotools, the field's oracle. Lin et al., Microsoft COCO, ECCV 2014."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.structures import Annotations, Detections, Floats

MOST_DETECTIONS = 100


@dataclass(frozen=True)
class Averages:
    """Average precisions; None where there is no ground truth."""

    map: float | None
    map50: float | None
    per_class: tuple[float | None, ...]


def average_precisions(
    detections: Sequence[Detections], annotations: Sequence[Annotations], num_classes: int
) -> Averages:
    """Evaluate with COCO's rules: IoU 0.50:0.95, all areas, 100 detections an image.

    Annotations to ignore are COCO's crowds: detections on them are neither hits nor misses.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = ground_truth(annotations, num_classes)
        truth.createIndex()
        rows = _result_rows(detections)
        if rows.size:
            results = truth.loadRes(rows)
        else:  # loadRes refuses an empty list
            results = COCO()
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoUs, recalls, classes), all areas, 100 detections
    return Averages(
        map=_mean(precision),
        map50=_mean(precision[0]),
        per_class=tuple(_mean(precision[:, :, index]) for index in range(num_classes)),
    )


def ground_truth(annotations: Sequence[Annotations], num_classes: int) -> dict[str, Any]:
    """Return annotations as a COCO dataset; image ids and category ids count from 1."""
    boxes: list[dict[str, Any]] = []
    for image, truth in enumerate(annotations, start=1):
        for box, label, ignore in zip(_xywh(truth.boxes), truth.labels, truth.ignore, strict=True):
            boxes.append(
                {
                    "id": len(boxes) + 1,
                    "image_id": image,
                    "category_id": int(label) + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": int(ignore),
                }
            )
    return {
        "info": {},
        "images": [{"id": index} for index in range(1, len(annotations) + 1)],
        "categories": [{"id": index} for index in range(1, num_classes + 1)],
        "annotations": boxes,
    }


def _result_rows(detections: Sequence[Detections]) -> Any:
    """Return detections as rows of image, x, y, width, height, score, category."""
    rows = [
        (image, *box, float(score), int(label) + 1)
        for image, found in enumerate(detections, start=1)
        for box, score, label in zip(_xywh(found.boxes), found.scores, found.labels, strict=True)
    ]
    return np.array(rows, np.float64).reshape(-1, 7)


def _xywh(boxes: Floats) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).tolist()


def _mean(precision: Any) -> float | None:
    known = precision[precision > -1]
    return float(known.mean()) if known.size else None
