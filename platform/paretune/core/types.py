"""Images, boxes, annotations and detections, as every package uses them.

Images are uint8 arrays (H, W, 3) in RGB. Boxes are float32 (N, 4), x1 y1 x2 y2, in pixels of the
image they belong to. Labels are int64 (N,), an index into the dataset's class names. All of it is
numpy: a deployed artefact needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, order=True)
class InputSize:
    """Size of the network's input in pixels, written ``192x144`` (width x height), or one number for a square."""

    width: int
    height: int

    @classmethod
    def parse(cls, text: int | str) -> InputSize:
        """Read ``320`` or ``"192x144"``.

        Raises:
            ValueError: anything else.
        """
        match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", str(text))
        if match is None:
            raise ValueError("expected one number (square) or WIDTHxHEIGHT such as 192x144")
        return cls(int(match[1]), int(match[2] or match[1]))

    def __str__(self) -> str:
        """Return the size as it is written."""
        return str(self.width) if self.width == self.height else f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Annotations:
    """Ground truth of one image."""

    boxes: Floats
    """(N, 4) in pixels of the image."""
    labels: NDArray[np.int64]
    """(N,) index of the class."""
    ignore: NDArray[np.bool_]
    """(N,) crowd (COCO) or difficult (VOC): neither a hit nor a miss, never trained on."""
    areas: Floats | None = None
    """(N,) in square pixels, by which objects are small, medium or large, where they are not those of the boxes:
    COCO's are of the objects' outlines."""


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best score first."""

    boxes: Floats
    """(N, 4)."""
    scores: Floats
    """(N,) in [0, 1]."""
    labels: NDArray[np.int64]
    """(N,)."""


MEASURED_IMAGES = 100
"""Most images that timed inferences take in turn."""
SURE = 0.3
"""Default smallest score of boxes that are shown to people or used by a deployment."""


LIMIT = 100
"""COCO's limit of detections of a class in an image; the best ones count."""


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of the postprocessing."""

    score: float = 0.01
    """Smallest score of a kept box, also for evaluating accuracy and measuring latency."""
    iou: float = 0.65
    """Intersection over union above which the weaker of two boxes of a class is dropped."""
    candidates: int = 400
    """Most boxes of an image, best first, in the non-maximum suppression."""
    detections: int = LIMIT
    """Most boxes kept in an image."""

    def keeping(self, detections: int) -> Thresholds:
        """Return a copy with another number of boxes, and at least four times as many candidates."""
        return replace(self, candidates=max(self.candidates, 4 * detections), detections=detections)

    @property
    def limit(self) -> int:
        """Return the most detections of a class in an image that accuracy counts: COCO's limit or more."""
        return max(LIMIT, self.detections)


class Split(Protocol):
    """One part (train, val, test) of a dataset; only reading an image may be slow."""

    classes: tuple[str, ...]
    ids: Sequence[str]

    def __len__(self) -> int:
        """Return the number of images."""

    def image(self, index: int) -> Image:
        """Read one image, (H, W, 3) uint8 RGB."""

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of one image in pixels, without decoding it."""

    def annotations(self, index: int) -> Annotations:
        """Return the ground truth of one image."""

    def file(self, index: int) -> Path | None:
        """Return the image's file; None for a generated image."""


@dataclass(frozen=True)
class LeftOut:
    """Unused parts of a dataset, for one reason."""

    what: str
    """``boxes``, ``images``, or ``entries`` of a file that are neither."""
    count: int
    why: str
    first: str
    """File and place of the first one."""


@dataclass(frozen=True)
class Data:
    """An opened dataset."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    """``train``, ``val``, and possibly ``test``, which no search uses."""
    fingerprint: str
    """Hash that changes with an image list, a split or a generated image."""
    notes: tuple[str, ...] = ()
    """Remarks for readers of the results, such as splits that were made on opening."""
    left_out: tuple[LeftOut, ...] = ()
    """Unused parts, by reason."""
    gaps: tuple[str, ...] = ()
    """Reasons against training on it, a sentence each: a split without objects, a class without objects in ``train``, a
    split that lost a large part of its entries."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts for the log: images and boxes in each split."""
