"""What a training split holds, in a few numbers: what `training: auto` chooses by."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from paretune.core.types import Split

MOST_IMAGES = 20_000
"""Images whose annotations are looked at; of a larger split as many, evenly spread."""
_SIDES = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class SplitStatistics:
    """Numbers of one split; boxes to ignore and those without area are not counted."""

    images: int
    boxes: int
    classes: int
    width: float
    """Median of the images' widths in pixels."""
    height: float
    objects: float
    """Median of the boxes in an image."""
    smallest: float
    """Side of a small object: the 5th percentile of sqrt(box area / image area)."""
    small: float
    """The 10th percentile of the same."""
    largest: float
    """The 95th percentile of the same."""
    sided: tuple[str, ...] = ()
    """Classes that a mirror would make another one: those with left or right in their name."""

    @property
    def aspect(self) -> float:
        """Return the usual width of an image over its height."""
        return self.width / self.height


def statistics(split: Split) -> SplitStatistics:
    """Return the numbers of a split.

    Raises:
        ValueError: it has no image.
    """
    step = -(-len(split) // MOST_IMAGES)
    indices = range(0, len(split), step)
    sizes = np.array([split.size(index) for index in indices], np.float64)
    counts, sides = [], []
    for index, (width, height) in zip(indices, sizes, strict=True):
        truth = split.annotations(index)
        boxes = truth.boxes.reshape(-1, 4)[~truth.ignore]
        areas = np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1)
        found = areas[areas > 0]
        counts.append(len(found))
        sides.append(np.sqrt(found / (width * height)))
    every = np.concatenate(sides)
    smallest, small, largest = np.percentile(every, (5, 10, 95)) if len(every) else (0.1, 0.1, 0.9)
    return SplitStatistics(
        images=len(split),
        boxes=sum(counts) * step,
        classes=len(split.classes),
        width=float(np.median(sizes[:, 0])),
        height=float(np.median(sizes[:, 1])),
        objects=float(np.median(counts)),
        smallest=float(smallest),
        small=float(small),
        largest=float(largest),
        sided=tuple(name for name in split.classes if _SIDES.search(name)),
    )
