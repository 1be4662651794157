"""Boxes in a table: one row an object, as spreadsheets and labelling tools write them."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from paretune.data.files import read_file
from paretune.data.images import SUFFIXES, image_size
from paretune.data.photographs import Photographs, unique_ids
from paretune.errors import UserError
from paretune.spec import fingerprint
from paretune.structures import Annotations, Data

COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
_MOST_BYTES = 1_000_000_000


def read_table(file: Path, folder: Path) -> Data:
    """Read a CSV file with a header that names ``COLUMNS`` in any order; other columns are left alone.

    Args:
        file: the table; corners in pixels counted from 0, x2 and y2 beyond the object.
        folder: that the file names are relative to. Images in it without a row have no objects.

    Raises:
        UserError: a column is missing, a number is none, or an image is not there: file and line named.
    """
    try:
        text = read_file(file, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text in UTF-8") from error
    images = _images(folder)
    boxes: dict[str, list[tuple[str, list[float]]]] = defaultdict(list)
    for where, row in _rows(file, text):
        name, kind = (row[column] or "" for column in ("filename", "class"))
        if name not in images:
            raise UserError(f"{where}: no image {name!r} in {folder}")
        if not kind.strip():
            raise UserError(f"{where}: no class")
        corners = [_number(row[column], f"{where}: {column}") for column in COLUMNS[2:]]
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            raise UserError(f"{where}: a box without area: {' '.join(f'{c:g}' for c in corners)} (x1 y1 x2 y2)")
        boxes[name].append((kind.strip(), corners))
    if not boxes:
        raise UserError(f"{file}: no rows in it")
    classes = tuple(sorted({kind for objects in boxes.values() for kind, _ in objects}))
    sizes = {name: image_size(path) for name, path in images.items()}
    truth = [
        Annotations(
            np.clip(np.array([c for _, c in boxes[n]], np.float64).reshape(-1, 4), 0, [*sizes[n], *sizes[n]]).astype(
                np.float32
            ),
            np.array([classes.index(kind) for kind, _ in boxes[n]], np.int64),
            np.zeros(len(boxes[n]), bool),
        )
        for n in images
    ]
    named = unique_ids(list(images.values()), folder)
    split = Photographs(
        classes,
        tuple(named.values()),
        tuple(images.values()),
        tuple(sizes.values()),
        tuple(truth),
    )
    return Data(classes, {"train": split}, fingerprint(text))


def _rows(file: Path, text: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Give each row with its place."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
            raise UserError(f"{file}:1: no column {missing[0]!r}; expected a header with {', '.join(COLUMNS)}")
        for row in rows:
            yield f"{file}:{rows.line_num}", row
    except csv.Error as error:
        raise UserError(
            f"{file}:{rows.line_num + 1}: not a row of a table: {error} (a quote that is not closed?)"
        ) from error


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images")
    found = {path.name: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    if not found:
        raise UserError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return found


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where} is {text!r}, expected a number")
    return number
