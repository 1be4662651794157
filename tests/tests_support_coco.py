"""pycocotools as the oracle of COCO's numbers."""

from __future__ import annotations

import contextlib
import io

from paretune.core.types import LIMIT
from paretune.evaluation.coco_metrics import limits_of, metrics_of


def by_pycocotools(truth, found, limit=LIMIT):
    """Return pycocotools' COCOeval of two COCO datasets, the second with scores."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    one, other = COCO(), COCO()
    one.dataset, other.dataset = truth, found
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints what it is doing
        one.createIndex()
        other.createIndex()
        evaluation = COCOeval(one, other, "bbox")
        evaluation.params.maxDets = limits_of(limit)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def ground_truth(annotations, num_classes):
    """Return annotations as a COCO dataset; image ids and category ids count from 1."""
    rows = []
    for image, truth in enumerate(annotations, start=1):
        for index, box in enumerate(truth.boxes):
            row = _row(len(rows) + 1, image, truth.labels[index], box) | {"iscrowd": int(truth.ignore[index])}
            rows.append(row if truth.areas is None else row | {"area": float(truth.areas[index])})
    images = [{"id": index} for index in range(1, len(annotations) + 1)]
    categories = [{"id": index} for index in range(1, num_classes + 1)]
    return {"info": {}, "images": images, "categories": categories, "annotations": rows}


def evaluated(detections, annotations, num_classes, limit=LIMIT):
    """Return pycocotools' COCOeval of detections after matching and accumulating."""
    dataset, rows = ground_truth(annotations, num_classes), []
    for image, found in enumerate(detections, start=1):  # in the form that loadRes gives them: it refuses an empty list
        for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True):
            rows.append(_row(len(rows) + 1, image, label, box) | {"iscrowd": 0, "score": float(score)})
    return by_pycocotools(dataset, {**dataset, "annotations": rows}, limit)


def _row(number, image, label, box):
    x1, y1, x2, y2 = map(float, box)
    box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
    return {"id": number, "image_id": image, "category_id": int(label) + 1, **box}


def coco_oracle(detections, annotations, num_classes, limit=LIMIT):
    """Return COCO's numbers by pycocotools."""
    return metrics_of(evaluated(detections, annotations, num_classes, limit), num_classes, limit)
