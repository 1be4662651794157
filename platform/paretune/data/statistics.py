"""What splits hold, in numbers: objects of each class, and what `training: auto` chooses by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from paretune.core.types import Split, Thresholds

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
    """Median of the images' heights in pixels."""
    objects: float
    """Median of the boxes in an image."""
    smallest: float
    """Side of a small object: the 5th percentile of sqrt(box area / image area)."""
    small: float
    """Side of a rather small object: the 10th percentile of sqrt(box area / image area)."""
    largest: float
    """Side of a large object: the 95th percentile of sqrt(box area / image area)."""
    sided: tuple[str, ...] = ()
    """Classes that become another one in a mirror: those with left or right in their name."""

    @property
    def aspect(self) -> float:
        """Return the usual width of an image over its height."""
        return self.width / self.height


def split_statistics(split: Split) -> SplitStatistics:
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
        positive = areas[areas > 0]
        counts.append(len(positive))
        sides.append(np.sqrt(positive / (width * height)))
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


def object_counts(splits: Mapping[str, Split]) -> dict[str, int]:
    """Return ``images_<split>``, ``boxes_<split>`` and ``boxes_<split>_<class>``; entries to ignore are not counted."""
    counts: dict[str, int] = {}
    for name, split in splits.items():
        truth = [split.annotations(index) for index in range(len(split))]
        labels = np.concatenate([a.labels[~a.ignore] for a in truth]) if truth else np.zeros(0, np.int64)
        per_class = np.bincount(labels, minlength=len(split.classes))
        counts[f"images_{name}"] = len(split)
        counts[f"boxes_{name}"] = int(per_class.sum())
        counts |= {f"boxes_{name}_{c}": int(n) for c, n in zip(split.classes, per_class, strict=True)}
    return counts


def crowding_note(splits: Mapping[str, Split], thresholds: Thresholds) -> str | None:
    """Return a note on images that hold more objects than boxes are kept of an image, or None where there are none."""
    parts, most = [], 0
    for name, split in splits.items():
        counts = [int((~split.annotations(index).ignore).sum()) for index in range(len(split))]
        crowded = sum(count > thresholds.detections for count in counts)
        most = max(most, *counts, 0)
        parts += [f"{crowded} of {len(split)} images of {name}"] if crowded else []
    if not parts:
        return None
    enough = -(-most // 100) * 100
    note = f"thresholds.detections is {thresholds.detections}, and {', '.join(parts)} hold more objects, up to {most}"
    return f"{note}: --set thresholds.detections={enough} keeps more boxes"
