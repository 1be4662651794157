"""What a check of a dataset tells, and the lenient view of it that the checks are made on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from paretune.structures import Image

KINDS: Mapping[str, tuple[bool, str]] = {
    "missing-image": (True, "an annotation's image is not there"),
    "unreadable-image": (True, "no image, truncated, or too large: really decoded"),
    "unreadable-annotation": (True, "not of the format, or an object in it is not"),
    "bad-box": (True, "a coordinate is no number"),
    "unknown-class": (True, "a class that is not among the classes"),
    "duplicate-id": (True, "two entries have one name or number"),
    "bad-list": (True, "a list of a split is missing, empty, or names what is not there"),
    "leak": (True, "an image is in two splits: what is trained on cannot tell how accurate the result is"),
    "no-objects": (True, "no annotation holds an object"),
    "repeated-id": (False, "two boxes of a file have one number: both are kept, for it is used nowhere else"),
    "other-size": (False, "the annotation gives another size than the image has"),
    "inverted-box": (False, "the second corner lies before the first: left out in training"),
    "empty-box": (False, "a box without area: left out in training"),
    "outside-box": (False, "a box reaches over the image's edge: cut off there, or left out"),
    "tiny-box": (False, "a box with a side shorter than 4 pixels: hardly to be found when images shrink"),
    "duplicate-box": (False, "the same box of the same class twice in one image"),
    "no-boxes": (False, "an image whose annotation holds no object: background"),
    "no-annotation": (False, "an image that no annotation belongs to: left out in training"),
    "no-split": (False, "an annotated image that is in no split"),
    "wrong-suffix": (False, "an image of another kind than its name says; it is read all the same"),
    "rotated": (False, "EXIF asks to turn the picture; boxes are taken in stored pixels, unturned"),
    "duplicate-image": (False, "the same image twice in one split"),
    "near-leak": (False, "nearly the same image in two splits, by a hash of its small grey version"),
}
"""Every kind of defect: whether it hinders training (the exit code is 1), and what it means."""


@dataclass(frozen=True, order=True)
class Finding:
    """One defect."""

    kind: str
    """A key of ``KINDS``."""
    file: str
    where: str
    """Place in the file, such as ``line 3`` or ``object 2``; empty for the whole file."""
    message: str

    @property
    def hinders(self) -> bool:
        """Whether training would fail, or its figures mean nothing."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        place = f": {self.where}" if self.where else ""
        return printable(f"{self.file}{place}: {self.message}")

    def tree(self) -> dict[str, Any]:
        """Return plain data."""
        return {**vars(self), "hinders": self.hinders}


def printable(text: str) -> str:
    """Return a text as it is if a terminal can show it; else with escapes, for names come out of foreign files."""
    return text if text.isprintable() else ascii(text)[1:-1]


class RawBox(NamedTuple):
    """One object as it is written, however wrong."""

    name: str
    """Its class."""
    box: tuple[float, float, float, float]
    """x1 y1 x2 y2 in pixels, or in shares of the image where ``RawImage.relative``; perhaps NaN."""
    where: str
    """Place in the annotation's file."""
    ignore: bool = False
    """A crowd (COCO) or difficult (VOC): neither a hit nor a miss."""
    area: float | None = None
    """Of the object's outline in square pixels, where it is told."""


@dataclass(frozen=True)
class RawImage:
    """One image and what is said of it."""

    file: Path
    annotation: Path
    """Where its objects are written; the image itself where nothing is."""
    boxes: tuple[RawBox, ...] = ()
    told_size: tuple[int, int] | None = None
    """(width, height) as the annotation gives it, if it does."""
    relative: bool = False
    """Boxes are written in shares of the image."""
    splits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """A dataset read leniently: all that could be read, and a finding for what could not."""

    root: str
    """What was read: a folder, or the name of a generated dataset."""
    images: Sequence[RawImage]
    findings: Sequence[Finding]
    splits: Sequence[str]
    classes: Sequence[str] | None = None
    """The classes that are allowed; None: all that occur."""
    pixels: Mapping[Path, Callable[[], Image]] = field(default_factory=dict)
    """How to make the images that are no files."""
