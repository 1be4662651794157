"""The conventions every part shares: images, boxes, annotations, detections.

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
    """What the network sees, in pixels; written ``192x144`` (width x height), or one number for a square."""

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
        """Give the form it is written in."""
        return str(self.width) if self.width == self.height else f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Annotations:
    """The ground truth of one image."""

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
    """What a detector found in one image, best score first."""

    boxes: Floats
    """(N, 4)."""
    scores: Floats
    """(N,) in [0, 1]."""
    labels: NDArray[np.int64]
    """(N,)."""


MEASURED_IMAGES = 100
"""Images that inferences take in turn while they are timed; fewer where a split has no more."""
SURE = 0.3
"""Smallest score of a box that people are shown, or a deployment uses, where nobody says otherwise."""


LIMIT = 100
"""Most detections of a class in an image that count, the best of them: COCO's own limit."""


@dataclass(frozen=True)
class Thresholds:
    """What postprocessing keeps."""

    score: float = 0.01
    """Smallest score kept; accuracy is evaluated and latency measured at this one."""
    iou: float = 0.65
    """Overlap (intersection over union) above which the weaker of two boxes of a class goes."""
    candidates: int = 400
    """Boxes of an image, best first, that non-maximum suppression sees."""
    detections: int = LIMIT
    """Most boxes kept in an image."""

    def keeping(self, detections: int) -> Thresholds:
        """Return the same with another number of boxes, and at least four times as many candidates."""
        return replace(self, candidates=max(self.candidates, 4 * detections), detections=detections)

    @property
    def limit(self) -> int:
        """Return the most detections of a class in an image that accuracy counts: COCO's, or those kept."""
        return max(LIMIT, self.detections)


class Split(Protocol):
    """One part (train, val, test) of a dataset; reading an image may be slow, the rest is not."""

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
        """Return the image's file, or None for one that is made."""


@dataclass(frozen=True)
class LeftOut:
    """What of a dataset is not used, for one reason."""

    what: str
    """``boxes``, ``images``, or ``entries`` of a file that are neither."""
    count: int
    why: str
    first: str
    """The first one: its file, and the place in it."""


@dataclass(frozen=True)
class Data:
    """An opened dataset."""

    classes: tuple[str, ...]
    splits: dict[str, Split]
    """``train`` and ``val`` always; ``test`` where there is one: no search ever looks at it."""
    fingerprint: str
    """Changes when an image list, a split or a generated picture changes."""
    notes: tuple[str, ...] = ()
    """What a reader of the results must know: what was read otherwise than it is written, splits made here."""
    left_out: tuple[LeftOut, ...] = ()
    """What is not used, by reason."""
    gaps: tuple[str, ...] = ()
    """Why nothing should be trained on it unless its user says so: a split without objects, a class without any in
    train, a split that lost a large part of what is written of it; a sentence each."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts for the log: images and boxes in each split."""
