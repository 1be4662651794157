"""Detections that another program has written: a ground truth and a results file, both in COCO's format.

https://cocodataset.org/#format-results
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.errors import UserError, did_you_mean
from paretune.evaluation.coco import Averages, AveragesAt, Columns, averages_at, averages_of, by_hotcoco
from paretune.structures import Annotations, Detections

MOST_BYTES = 4 * 2**30
Row = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """Both files, image by image; boxes in float64, as they are written, so that overlaps are pycocotools' own."""

    classes: tuple[str, ...]
    images: tuple[str, ...]
    """File name, else the id, of each image."""
    annotations: tuple[Annotations, ...]
    detections: tuple[Detections, ...]
    averages: Averages
    """COCO's numbers, of the boxes just as they are written."""
    averages_at: AveragesAt | None = None
    """The same at the one IoU that was asked for."""


def read_results(truth: Path, found: Path, iou: float | None = None) -> Results:
    """Read a ground truth and the detections of its images.

    Categories come in the order of their ids, as in pycocotools.

    Args:
        truth: the one file.
        found: the other.
        iou: at which to evaluate besides.

    Raises:
        UserError: a file is not of the format, or speaks of images or categories that the other lacks.
    """
    content = _json(truth)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(f"{truth}: expected an object with the lists images, annotations and categories")
    categories = _numbered(truth, content["categories"], "categories")
    images = _numbered(truth, content["images"], "images")
    ids, labels = sorted(images), {number: label for label, number in enumerate(sorted(categories))}
    rows = _json(found)
    if isinstance(rows, dict) and isinstance(rows.get("annotations"), list):
        rows = rows["annotations"]
    if not isinstance(rows, list):
        raise UserError(f"{found}: expected a list of results, each with image_id, category_id, bbox and score")
    objects = _by_image(truth, content["annotations"], "annotations", images, labels)
    results = _by_image(found, rows, "", images, labels, scored=True)
    written = (ids, list(labels), _columns(content["annotations"]), _result_rows(rows))
    evaluation = by_hotcoco(*written)
    return Results(
        averages=averages_of(evaluation, len(labels)),
        averages_at=None if iou is None else averages_at(by_hotcoco(*written, iou), len(labels)),
        classes=tuple(_name(categories[number], number) for number in labels),
        images=tuple(str(images[number].get("file_name", number)) for number in ids),
        annotations=tuple(_annotations(objects[number], labels) for number in ids),
        detections=tuple(_detections(results[number], labels) for number in ids),
    )


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: larger than {MOST_BYTES >> 30} GiB")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON: {error}") from error


def _numbered(file: Path, rows: list[Any], key: str) -> dict[int, Row]:
    found: dict[int, Row] = {}
    for index, row in enumerate(rows):
        number = row.get("id") if isinstance(row, dict) else None
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f"{file}: {key}[{index}]: expected an object with a whole number as id")
        if number in found:
            raise UserError(f"{file}: {key}[{index}]: id {number} is there twice")
        found[number] = row
    if not found:
        raise UserError(f"{file}: {key} is empty")
    return found


def _by_image(
    file: Path, rows: list[Any], key: str, images: Mapping[int, Row], labels: Mapping[int, int], *, scored: bool = False
) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = defaultdict(list)
    for index, row in enumerate(rows):
        if problem := _problem(row, images, labels, scored=scored):
            raise UserError(f"{file}: {key}[{index}]: {problem}")
        found[row["image_id"]].append(row)
    return found


def _problem(row: Any, images: Mapping[int, Row], labels: Mapping[int, int], *, scored: bool) -> str | None:
    if not isinstance(row, dict):
        return "expected an object"
    for name, known in (("image_id", images), ("category_id", labels)):
        number = row.get(name)
        if not _is_int(number) or number not in known:
            hint = did_you_mean(str(number), [str(n) for n in known]) if name == "category_id" else ""
            return f"{name} {number!r} is not in the ground truth{hint}"
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return f"bbox {box!r:.80} is not a list of four numbers: x, y, width, height"
    if min(box[2:]) < 0:
        return f"bbox {box!r:.80} has a negative width or height"
    if scored and not _is_finite(row.get("score")):
        return f"score {row.get('score')!r} is not a number"
    return None


def _columns(rows: list[Row]) -> Columns:
    return Columns(
        np.array([row["image_id"] for row in rows], np.int64),
        np.array([row["category_id"] for row in rows], np.int64),
        np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4),
        _areas(rows),
        np.array([bool(row.get("iscrowd")) for row in rows], bool),
    )


def _result_rows(rows: list[Row]) -> NDArray[np.float64]:
    columns = [[row["image_id"], *row["bbox"], row["score"], row["category_id"]] for row in rows]
    return np.array(columns, np.float64).reshape(-1, 7)


def _areas(rows: list[Row]) -> Any:
    """Return the areas that are told, else those of the boxes."""
    return np.array([_area(row) for row in rows], np.float64)


def _area(row: Row) -> float:
    width, height = map(float, row["bbox"][2:])
    return row["area"] if _is_finite(row.get("area")) else width * height


def _annotations(rows: list[Row], labels: Mapping[int, int]) -> Annotations:
    return Annotations(
        _boxes(rows),
        np.array([labels[row["category_id"]] for row in rows], np.int64),
        np.array([bool(row.get("iscrowd")) for row in rows], bool),
        _areas(rows),
    )


def _detections(rows: list[Row], labels: Mapping[int, int]) -> Detections:
    order = sorted(rows, key=lambda row: -row["score"])
    scores: Any = np.array([row["score"] for row in order], np.float64)
    return Detections(_boxes(order), scores, np.array([labels[row["category_id"]] for row in order], np.int64))


def _boxes(rows: list[Row]) -> Any:
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _name(category: Row, number: int) -> str:
    name = category.get("name")
    return name if isinstance(name, str) and name.strip() else str(number)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
