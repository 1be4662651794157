"""Boxes in a table: one row an object, as spreadsheets and labelling tools write them."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretune.core.errors import UserError
from paretune.core.spec import fingerprint
from paretune.core.types import Annotations, Data
from paretune.data.file_io import read_file
from paretune.data.image_io import SUFFIXES, image_size
from paretune.data.image_split import ImageFileSplit, unique_ids

COLUMNS = ("filename", "class", "xmin", "ymin", "xmax", "ymax")
_MOST_BYTES = 1_000_000_000


ORIGINS = {
    0: "corners are edges counted from 0, xmax and ymax beyond the object",
    1: "corners are pixels counted from 1, xmax and ymax the object's last, as in Pascal VOC",
}
"""First pixel of an image → what the corners of a box are then."""
SHOWN = 3
"""Examples in a note."""


@dataclass(frozen=True)
class _Row:
    where: str
    image: str
    name: str
    corners: tuple[float, float, float, float]
    """Corners of the table, as they are written."""


def read_table(file: Path, folder: Path, origin: int = 0) -> Data:
    """Read a CSV file with a header that names ``COLUMNS`` in any order; other columns are left alone.

    Args:
        file: the table.
        folder: that the file names are relative to. Images in it without a row have no objects; the notes count them.
        origin: what the corners of a box are; one of ``ORIGINS``.

    Raises:
        UserError: a column is missing, a number is none, a box has no area in its image, or an image is not there: file
            and line named.
    """
    try:
        text = read_file(file, _MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not a text in UTF-8") from error
    images = _images(folder)
    sizes = {name: image_size(path) for name, path in images.items()}
    rows = [_row(where, row, folder, images) for where, row in _rows(file, text)]
    if not rows:
        raise UserError(f"{file}: no rows in it")
    classes = tuple(sorted({row.name for row in rows}))
    objects: dict[str, list[tuple[list[float], int]]] = defaultdict(list)
    for row in rows:
        objects[row.image].append((_box(row, sizes[row.image], origin), classes.index(row.name)))
    truth = [
        Annotations(
            np.array([box for box, _ in objects[name]], np.float32).reshape(-1, 4),
            np.array([label for _, label in objects[name]], np.int64),
            np.zeros(len(objects[name]), bool),
        )
        for name in images
    ]
    ids = tuple(unique_ids(list(images.values()), folder).values())
    split = ImageFileSplit(classes, ids, tuple(images.values()), tuple(sizes.values()), tuple(truth))
    notes = _notes(file, rows, sizes, origin)
    return Data(classes, {"train": split}, fingerprint(text, origin), notes)


def _row(where: str, row: Mapping[str, str | None], folder: Path, images: Mapping[str, Path]) -> _Row:
    image, name = ((row[column] or "").strip() for column in ("filename", "class"))
    if image not in images:
        raise UserError(f"{where}: no image {image!r} in {folder}")
    if not name:
        raise UserError(f"{where}: no class")
    x1, y1, x2, y2 = (_number(row[column], f"{where}: {column}") for column in COLUMNS[2:])
    if x2 <= x1 or y2 <= y1:
        raise UserError(f"{where}: a box without area: {x1:g} {y1:g} {x2:g} {y2:g} (x1 y1 x2 y2)")
    return _Row(where, image, name, (x1, y1, x2, y2))


def _box(row: _Row, size: tuple[int, int], origin: int) -> list[float]:
    """Return the edges of a row's box, counted from 0 and cut at the image's."""
    edges = _edges(row, origin)
    x1, y1, x2, y2 = (min(max(edge, 0.0), float(most)) for edge, most in zip(edges, (*size, *size), strict=True))
    if x2 <= x1 or y2 <= y1:
        corners = " ".join(f"{corner:g}" for corner in row.corners)
        raise UserError(f"{row.where}: the box {corners} lies outside of {row.image}, {size[0]} x {size[1]} pixels")
    return [x1, y1, x2, y2]


def _edges(row: _Row, origin: int) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = row.corners
    return x1 - origin, y1 - origin, x2, y2


def _notes(file: Path, rows: Sequence[_Row], sizes: Mapping[str, tuple[int, int]], origin: int) -> tuple[str, ...]:
    """Return how the corners were read, what was cut, and which images the table does not name."""
    first = min(min(row.corners) for row in rows)
    notes = [f"boxes: {ORIGINS[origin]} (--origin {origin})"]
    if origin == 0 and first == 1:
        notes.append("no corner is 0 and some are 1: if they are counted from 1, give --origin 1")
    if origin == 1 and first < 1:
        notes.append(f"a corner is {first:g}: if they are counted from 0, give --origin 0")
    beyond = [row.where for row in rows if not _inside(_edges(row, origin), sizes[row.image])]
    if beyond:
        notes.append(f"{_of(len(beyond), len(rows), 'boxes')} reached beyond the image and cut there: {_some(beyond)}")
    if missing := [name for name in sizes if name not in {row.image for row in rows}]:
        notes.append(
            f"{_of(len(missing), len(sizes), 'images')} without a row in {file}, so without objects: {_some(missing)}"
        )
    return tuple(notes)


def _inside(edges: Sequence[float], size: tuple[int, int]) -> bool:
    return min(edges) >= 0 and edges[2] <= size[0] and edges[3] <= size[1]


def _of(count: int, of: int, what: str) -> str:
    return f"{count} of {of} {what}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


def _rows(file: Path, text: str) -> Iterator[tuple[str, dict[str, str | None]]]:
    """Yield each row with its place."""
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
    images = {path.name: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    if not images:
        raise UserError(f"{folder}: no images in it ({', '.join(sorted(SUFFIXES))})")
    return images


def _number(text: str | None, where: str) -> float:
    try:
        number = float(text or "")
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{where} is {text!r}, expected a number")
    return number
