"""Detections that another program has written: a ground truth and a results file, both in COCO's format.

https://cocodataset.org/#format-results
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.errors import UserError
from paretune.core.types import LIMIT, Annotations, Detections
from paretune.evaluation.coco_metrics import (
    CocoMetricsByClass,
    GroundTruthColumns,
    MetricsAtIou,
    by_hotcoco,
    metrics_at,
    metrics_of,
)
from paretune.evaluation.id_matching import Id, KnownIds, is_id
from paretune.evaluation.results_explanations import explained

MOST_BYTES = 4 * 2**30
Row = dict[str, Any]


@dataclass(frozen=True)
class CocoResults:
    """Both files, image by image; boxes in float64, as they are written, so that overlaps are pycocotools' own."""

    classes: tuple[str, ...]
    images: tuple[str, ...]
    """File name, else the id, of each image."""
    annotations: tuple[Annotations, ...]
    detections: tuple[Detections, ...]
    averages: CocoMetricsByClass
    """COCO's numbers, of the boxes just as they are written."""
    averages_at: MetricsAtIou | None = None
    """Its numbers at the one IoU that was asked for."""
    notes: tuple[str, ...] = ()
    """How ids were read where they are not simply equal, and what seems to be wrong with the results."""


@dataclass(frozen=True)
class _Rows:
    """Rows of a file that are right, and the places of their images and categories in the ground truth's."""

    rows: list[Row]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    notes: tuple[str, ...]

    @property
    def boxes(self) -> NDArray[np.float64]:
        """Return x, y, width, height (N, 4)."""
        return np.array([row["bbox"] for row in self.rows], np.float64).reshape(-1, 4)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Return the scores (N,)."""
        return np.array([row["score"] for row in self.rows], np.float64)

    def by_image(self, count: int, order: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Return the rows of each image, in an order of all rows that has those of an image together."""
        return np.split(order, np.searchsorted(self.images[order], np.arange(1, count)))


def read_results(truth: Path, found: Path, iou: float | None = None, limit: int = LIMIT) -> CocoResults:
    """Read a ground truth and the detections of its images.

    Images and categories come in the order of their ids, as in pycocotools.

    Args:
        truth: the one file.
        found: the other.
        iou: one at which to evaluate too.
        limit: most detections of a class in an image that count.

    Results of categories that the ground truth lacks are left out, as by pycocotools, and counted in a note.

    Raises:
        UserError: a file is not of the format, results are of images that the ground truth lacks, or none of their
            categories is in it.
    """
    content = _json(truth)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(f"{truth}: expected an object with the lists images, annotations and categories")
    categories = _numbered(truth, content["categories"], "categories")
    shown = _numbered(truth, content["images"], "images")
    classes = KnownIds.of("category", {number: _text(row.get("name")) for number, row in categories.items()})
    images = KnownIds.of("image", {number: _text(row.get("file_name")) for number, row in shown.items()})
    rows = _json(found)
    if isinstance(rows, dict) and isinstance(rows.get("annotations"), list):
        rows = rows["annotations"]
    if not isinstance(rows, list):
        raise UserError(f"{found}: expected a list of results, each with image_id, category_id, bbox and score")
    objects = _rows(truth, content["annotations"], "annotations", images, classes)
    results = _rows(found, rows, "", images, classes, scored=True)
    crowds, areas = np.array([bool(row.get("iscrowd")) for row in objects.rows], bool), _areas(objects.rows)
    written = (
        range(len(images.order)),
        range(1, len(classes.order) + 1),
        GroundTruthColumns(objects.images, objects.labels + 1, objects.boxes, areas, crowds),
        np.column_stack([results.images, results.boxes, results.scores, results.labels + 1.0]).reshape(-1, 7),
    )
    annotations, detections = _annotations(objects, crowds, areas, images), _detections(results, images)
    sizes = [_size(shown[number]) for number in images.order]
    return CocoResults(
        averages=metrics_of(by_hotcoco(*written, limit=limit), len(classes.order), limit),
        averages_at=None if iou is None else metrics_at(by_hotcoco(*written, iou, limit), len(classes.order), limit),
        classes=tuple(name if name.strip() else str(number) for name, number in _pairs(classes)),
        images=tuple(name or str(number) for name, number in _pairs(images)),
        annotations=annotations,
        detections=detections,
        notes=(*objects.notes, *results.notes, *explained(detections, annotations, classes.order, sizes)),
    )


def _pairs(ids: KnownIds) -> Sequence[tuple[str, Id]]:
    return list(zip(ids.names, ids.order, strict=True))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(image: Row) -> tuple[float, float] | None:
    sides = [image.get(name) for name in ("width", "height")]
    known = [float(side) for side in sides if side is not None and _is_finite(side) and side > 0]
    return (known[0], known[1]) if len(known) == 2 else None


def _json(file: Path) -> Any:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: larger than {MOST_BYTES >> 30} GiB")
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON: {error}") from error


def _numbered(file: Path, rows: list[Any], key: str) -> dict[Id, Row]:
    numbered: dict[Id, Row] = {}
    for index, row in enumerate(rows):
        number = row.get("id") if isinstance(row, dict) else None
        if number is None or not is_id(number):
            raise UserError(f"{file}: {key}[{index}]: expected an object with a number or a text as id")
        if number in numbered:
            raise UserError(f"{file}: {key}[{index}]: id {number} is there twice")
        numbered[number] = row
    if not numbered:
        raise UserError(f"{file}: {key} is empty")
    return numbered


def _rows(file: Path, rows: list[Any], key: str, images: KnownIds, classes: KnownIds, *, scored: bool = False) -> _Rows:
    """Read rows of annotations, or of results (``scored``), whose unknown categories are left out.

    Raises:
        UserError: a row is not right, or all are left out; names the first and why.
    """
    readers = {"image_id": images.reader(), "category_id": classes.reader()}
    kept: list[Row] = []
    places: list[tuple[int, int]] = []
    left_out: list[int] = []

    def unknown(row: Row, name: str) -> str:
        return readers[name].problem(row.get(name), (other.get(name) for other in rows if isinstance(other, dict)))

    for index, row in enumerate(rows):
        problem = _problem(row, scored=scored) if isinstance(row, dict) else "expected an object"
        if problem is None:
            image, category = (reader.place(row.get(name)) for name, reader in readers.items())
            if image is not None and category is not None:
                kept.append(row)
                places.append((image, category))
                continue
            if image is not None and scored and is_id(row.get("category_id")):
                left_out.append(index)
                continue
            problem = unknown(row, "image_id" if image is None else "category_id")
        raise UserError(f"{file}: {key}[{index}]: {problem}")
    notes = [note for reader in readers.values() for note in reader.notes()]
    if left_out:
        first = f"[{left_out[0]}]: {unknown(rows[left_out[0]], 'category_id')}"
        if not kept:
            raise UserError(f"{file}: {key}{first}")
        notes.append(f"{len(left_out)} of {len(rows)} rows are left out, as pycocotools does; the first is {first}")
    columns = np.array(places, np.int64).reshape(-1, 2)
    return _Rows(kept, columns[:, 0], columns[:, 1], tuple(f"{file}: {note}" for note in notes))


def _problem(row: Row, *, scored: bool) -> str | None:
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)):
        return f"bbox {box!r:.80} is not a list of four numbers: x, y, width, height"
    if min(box[2:]) < 0:
        return f"bbox {box!r:.80} has a negative width or height"
    if scored and not _is_finite(row.get("score")):
        return f"score {row.get('score')!r} is not a number"
    return None


def _areas(rows: list[Row]) -> NDArray[np.float64]:
    """Return the areas in the rows, and those of the boxes where a row has none."""
    return np.array([_area(row) for row in rows], np.float64)


def _area(row: Row) -> float:
    width, height = map(float, row["bbox"][2:])
    return row["area"] if _is_finite(row.get("area")) else width * height


def _annotations(
    objects: _Rows, crowds: NDArray[np.bool_], areas: NDArray[np.float64], images: KnownIds
) -> tuple[Annotations, ...]:
    boxes: Any = _corners(objects.boxes)
    outlines: Any = areas
    groups = objects.by_image(len(images.order), np.argsort(objects.images, kind="stable"))
    return tuple(Annotations(boxes[own], objects.labels[own], crowds[own], outlines[own]) for own in groups)


def _detections(results: _Rows, images: KnownIds) -> tuple[Detections, ...]:
    boxes, scores = _corners(results.boxes), results.scores
    sorted_scores: Any = scores
    groups = results.by_image(len(images.order), np.lexsort((-scores, results.images)))
    return tuple(Detections(boxes[own], sorted_scores[own], results.labels[own]) for own in groups)


def _corners(boxes: NDArray[np.float64]) -> Any:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
