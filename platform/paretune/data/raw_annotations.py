"""The findings of a dataset's check, and the lenient view of the dataset that is checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from paretune.core.types import Image

KINDS: Mapping[str, tuple[bool, str]] = {
    "missing-image": (True, "an annotation's image is not there"),
    "unreadable-image": (True, "no image, truncated, or too large: really decoded"),
    "unreadable-annotation": (True, "not of the format, or an object in it is not"),
    "bad-box": (True, "no box, or a coordinate of it is no number"),
    "unknown-class": (True, "a class that is not among the classes"),
    "duplicate-id": (True, "two entries have one name or number"),
    "bad-list": (True, "a list of a split is missing, empty, or names what is not there"),
    "leak": (True, "an image is in two splits: what is trained on cannot tell how accurate the result is"),
    "no-objects": (True, "no annotation holds an object"),
    "other-unit": (
        True,
        "most boxes of a split are in another unit (pixels, shares), or second corners for width and height",
    ),
    "gap": (True, "a split without objects, or that lost many; a class without any in train: `allow_missing` lets it"),
    "allowed-gap": (False, "a gap that `allow_missing` lets pass"),
    "missing-split": (False, "a split that is not trained on is named and not there: only what asks for it is refused"),
    "repeated-id": (False, "two boxes of a file have one number: both are kept, for it is used nowhere else"),
    "other-size": (False, "the annotation gives another size than the image has"),
    "inverted-box": (False, "the second corner lies before the first: read the right way round"),
    "polygon": (False, "a polygon, or a box that is turned: its enclosing box is taken"),
    "segmentation": (False, "an object without a box: that of its segmentation is taken"),
    "confidence": (False, "numbers behind a box, such as a confidence or keypoints: not used"),
    "no-box": (False, "a point or a line, or what its tool says is no object: it has no box, and is left out"),
    "several": (False, "several answers or labels where one is read: which one is told"),
    "empty-box": (False, "a box without area: left out in training"),
    "outside-box": (False, "a box reaches over the image's edge: cut off there, or left out"),
    "tiny-box": (False, "a box with a side shorter than 4 pixels: hardly to be found when images shrink"),
    "duplicate-box": (False, "the same box of the same class twice in one image"),
    "other-name": (
        False,
        "a file is named otherwise (separators, Unicode form, capitals): the only one that fits is taken",
    ),
    "same-stem": (False, "several images have an annotation's name but for the ending: its <filename> decides"),
    "undeclared": (False, "an annotation tells no encoding, others tell one: it was read in UTF-8, as XML has it"),
    "other-id": (False, "a number is written as a text in one place, not in another: taken for the same"),
    "repeated-class": (False, "two categories have one name: they are one class"),
    "root-class": (False, "a category above others that no object is of: no class"),
    "class-count": (False, "the number of classes is not that of their names: the names count"),
    "other-class": (False, "a class list says that the image holds no object of the class: left out of the split"),
    "no-boxes": (False, "an image whose annotation holds no object: background"),
    "background": (False, "an image without a label file: taken for background"),
    "no-annotation": (False, "an image that no annotation belongs to: left out in training"),
    "no-split": (False, "an annotated image that is in no split"),
    "other-file": (False, "a file of another format among the annotations: not read"),
    "wrong-suffix": (False, "an image of another kind than its name says; it is read all the same"),
    "turned": (False, "EXIF asks to turn the picture: it is turned, as viewers show it"),
    "unturned": (False, "EXIF asks to turn the picture, the annotation gives the size of the unturned one: left so"),
    "deep": (False, "more than 8 bits a channel: the high byte is taken, of floats the share of white"),
    "frames": (False, "several pictures in one file: the first is read"),
    "transparent": (False, "transparent pixels: their colours are taken as they are stored"),
    "duplicate-image": (False, "the same image twice in one split"),
    "near-leak": (False, "nearly the same image in two splits, by a hash of its small grey version"),
}
"""Every kind of defect: whether it hinders training (the exit code is 1), and what it means."""
READ_ALL_THE_SAME: Mapping[str, str] = {
    "inverted-box": "boxes have their corners the wrong way round: they were turned",
    "polygon": "polygons, or boxes that are turned, were read as their enclosing boxes",
    "segmentation": "objects without a box have that of their segmentation",
    "confidence": "boxes have numbers behind them, such as a confidence, that are not used",
    "outside-box": "boxes reach over the edge of their image: they were cut off there",
    "other-name": "files are named otherwise than they are written: the only ones that fit were taken",
    "same-stem": "annotations fit several images but for the ending: their <filename> decided",
    "undeclared": "annotations tell no encoding, others beside them do: they were read in UTF-8, as XML has it",
    "other-id": "numbers are written as texts in one place, not in another: they were taken for the same",
    "repeated-class": "categories have a name that another has: they are one class",
    "root-class": "categories above others are no class: no object is of them",
    "class-count": "descriptions give a number of classes that is not that of their names: the names count",
    "missing-split": "splits are named and not there",
    "background": "images without a label file were taken for background",
    "no-box": "points, lines or what its tool calls no object have no box: they were left out",
    "several": "images or objects have several answers where one is read: `data check` tells which",
    "other-file": "files of another format lie among the annotations: not read",
}
"""Kinds that change how something is read: the text behind their number where a dataset is opened."""
LEFT_OUT: Mapping[str, str] = {
    "missing-image": "the image is not there",
    "unreadable-image": "the image cannot be read",
    "unreadable-annotation": "not readable",
    "bad-box": "without a box that can be read",
    "unknown-class": "of a class that is not among the classes",
    "duplicate-id": "there twice",
    "empty-box": "without area",
    "outside-box": "outside their image",
    "no-annotation": "no annotation belongs to them",
    "other-class": "without the class by the flag in its list",
    "no-split": "in no split",
    "object": "an object in them is left out",
}
"""Kinds for which something is left out: the reason that is printed."""


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
        """Return whether training would fail, or its figures mean nothing."""
        return KINDS[self.kind][0]

    def __str__(self) -> str:
        return printable(f"{self.place}: {self.message}")

    @property
    def place(self) -> str:
        """The file, and the place in it."""
        return f"{self.file}: {self.where}" if self.where else self.file

    @property
    def what(self) -> str:
        """What is left out where this is skipped: ``boxes``, ``images`` or ``entries`` of a file that are neither."""
        if self.where.startswith("images[") or self.where in ("", "size") or re.fullmatch(r"task \S+", self.where):
            return "images"
        entry = (
            self.kind == "duplicate-id"
            or self.where.startswith("categories")
            or self.where in ("images", "annotations")
        )
        return "entries" if entry else "boxes"

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
    """Corners x1 y1 x2 y2 in pixels, or in shares of the image where ``RawImage.relative``; perhaps NaN."""
    where: str
    """Place in the annotation's file."""
    ignore: bool = False
    """A crowd (COCO) or difficult (VOC): neither a hit nor a miss."""
    area: float | None = None
    """Area of the object's outline in square pixels, where it is known."""


@dataclass(frozen=True)
class RawImage:
    """One image with its annotations."""

    file: Path
    annotation: Path
    """Where its objects are written; the image itself where nothing is."""
    boxes: tuple[RawBox, ...] = ()
    annotated_size: tuple[int, int] | None = None
    """(width, height) as the annotation gives it, if it does."""
    relative: bool = False
    """Boxes are written in shares of the image."""
    splits: tuple[str, ...] = ()
    broken: tuple[Finding, ...] = ()
    """Objects of it that cannot be read; only needed where many images share one annotation file: what hinders
    training in a file of its own is known to be the image's."""


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
    shared: Collection[str] = ()
    """Splits that were shared out by a hash, since the folder has none."""
    notes: tuple[str, ...] = ()
    """Notes on how the splits were made."""
