"""pycocotools as the oracle of COCO's numbers."""

from __future__ import annotations

import contextlib
import io

from paretune.core.types import LIMIT
from paretune.evaluation.coco_metrics import averages_of, columns_of, limits_of, rows_of


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
    columns = columns_of(annotations)
    rows = zip(*(values.tolist() for values in vars(columns).values()), strict=True)
    return {
        "info": {},
        "images": [{"id": index} for index in range(1, len(annotations) + 1)],
        "categories": [{"id": index} for index in range(1, num_classes + 1)],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
            for number, (image, category, box, area, crowd) in enumerate(rows, start=1)
        ],
    }


def evaluated(detections, annotations, num_classes, limit=LIMIT):
    """Return pycocotools' COCOeval of detections after matching and accumulating."""
    dataset, rows = ground_truth(annotations, num_classes), []
    for image, x, y, width, height, score, category in rows_of(detections).tolist():  # loadRes refuses an empty list
        row = {"id": len(rows) + 1, "image_id": int(image), "category_id": int(category), "bbox": [x, y, width, height]}
        rows.append({**row, "area": width * height, "iscrowd": 0, "score": score})
    return by_pycocotools(dataset, {**dataset, "annotations": rows}, limit)


def coco_oracle(detections, annotations, num_classes, limit=LIMIT):
    """Return COCO's numbers by pycocotools."""
    return averages_of(evaluated(detections, annotations, num_classes, limit), num_classes, limit)
