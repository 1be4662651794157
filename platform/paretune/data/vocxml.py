"""One annotation file of Pascal VOC's format."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from paretune.data.files import read_file
from paretune.errors import UserError
from paretune.structures import Floats

MOST_BYTES = 10_000_000
FARTHEST = 1e9
"""No pixel lies so far away: a larger coordinate is a mistake, and too much for float32."""
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class VocImage:
    """One image and what its annotation says."""

    file: Path
    annotation: Path
    size: tuple[int, int]
    """(width, height) of the image file itself."""
    names: tuple[str, ...]
    """Class of each object."""
    boxes: Floats
    """(N, 4) in continuous pixels, cut off at the image's edges."""
    difficult: NDArray[np.bool_]
    """(N,)."""
    empty_boxes: int
    """Boxes left out: inverted, without area, or outside the image."""
    other_size: bool
    """The annotation gives another size."""
    digest: str
    """Changes with the annotation, and with the name or length of the image file."""


def read_annotation(path: Path, image: Path, size: tuple[int, int]) -> VocImage:
    """Read one annotation.

    Args:
        path: of the annotation.
        image: path of its image,
        size: and that image's width and height.

    Raises:
        UserError: not readable as a VOC annotation: file and reason named.
    """
    content = read_file(path, MOST_BYTES)
    try:
        root = parse_root(content)
        rows = [_object(node) for node in root.findall("object")]
        told = [int(_number(root, f"size/{side}", default="0")) for side in ("width", "height")]
    except ValueError as error:
        raise UserError(f"{path}: not a readable VOC annotation: {error}") from error
    told_boxes = np.array([box for _, box, _ in rows], np.float32).reshape(-1, 4)
    # VOC's corners are pixels counted from 1, both inside; here edges, and pixel k spans k to k + 1
    boxes = np.clip(told_boxes - [1, 1, 0, 0], 0, [*size, *size]).astype(np.float32)
    # equal corners would be one pixel wide: nobody means that, it is a slip of the mouse
    good = np.asarray(np.minimum(_sides(told_boxes), _sides(boxes)).min(axis=1) > 0)
    return VocImage(
        file=image,
        annotation=path,
        size=size,
        names=tuple(name for (name, _, _), kept in zip(rows, good, strict=True) if kept),
        boxes=boxes[good],
        difficult=np.array([difficult for _, _, difficult in rows], bool)[good],
        empty_boxes=int((~good).sum()),
        other_size=all(told) and tuple(told) != size,
        digest=hashlib.sha256(content + f"{image.name} {image.stat().st_size}".encode()).hexdigest()[:16],
    )


def parse_root(content: bytes) -> ET.Element:
    """Return the root element; definitions of entities (a few can grow to gigabytes) are refused.

    Raises:
        ValueError: no XML, or not a VOC annotation.
    """
    if b"<!DOCTYPE" in content.replace(b"\0", b""):  # also in UTF-16
        raise ValueError("it has a document type definition, which none needs")
    try:
        root = ET.fromstring(content)  # noqa: S314 - see above; ElementTree reads no external entities
    except (ET.ParseError, LookupError) as error:  # the latter: an encoding that Python does not know
        raise ValueError(str(error)) from error
    if root.tag != "annotation":
        raise ValueError(f"its root is <{root.tag}>, expected <annotation>")
    return root


def _object(node: ET.Element) -> tuple[str, list[float], bool]:
    """Return class, box and whether it is difficult."""
    name = class_of(node)
    if not name:
        raise ValueError("an object has no <name>")
    box = [_number(node, f"bndbox/{corner}") for corner in CORNERS]
    return name, box, (node.findtext("difficult") or "").strip() == "1"


def class_of(node: ET.Element) -> str:
    """Return an object's class; empty where it names none."""
    return (node.findtext("name") or "").strip()


def _sides(boxes: Floats) -> Floats:
    return boxes[:, 2:] - boxes[:, :2]


def _number(node: ET.Element, place: str, default: str | None = None) -> float:
    number = number_at(node, place, default)
    if math.isnan(number):
        text = node.findtext(place) or default
        raise ValueError(f"<{place}> of an {node.tag} is {text!r}, expected a number")
    return number


def number_at(node: ET.Element, place: str, default: str | None = None) -> float:
    """Return the number at a place below a node; NaN where there is none, or an absurd one."""
    try:
        number = float(node.findtext(place) or default or "")
    except ValueError:
        return math.nan
    return number if abs(number) <= FARTHEST else math.nan
