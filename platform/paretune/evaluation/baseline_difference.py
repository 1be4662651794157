"""The difference between a version's accuracy and the baseline's on the same images, with its interval.

A split of a hundred images gives the map of one network to a few points, but its change by compression far more
exactly: most of what makes one image harder than another is the same for both.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from paretune.core.counts import counted
from paretune.core.metrics import CHANGED, change_names
from paretune.core.types import LIMIT, Annotations, Detections, Split
from paretune.evaluation.accuracy import Accuracy, accuracy_of
from paretune.evaluation.map_bootstrap import MapOfHalves, differences_of, draw
from paretune.evaluation.worst_images import worst_images

DETECTIONS = "detections.npz"
"""What a trial found in each image of ``val``, in its folder."""
CHANGES = tuple(name for metric in CHANGED for name in change_names(metric))
"""Metrics of a change: of ``map`` and ``map50``, each between the ends of its 95 % interval."""


@dataclass(frozen=True)
class AccuracyDifference:
    """What a version has more than the baseline; a figure that is not known has a reason."""

    figures: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


def evaluate_beside(
    detections: Sequence[Detections], split: Split, baseline: Path, *, first: bool = False, limit: int = LIMIT
) -> tuple[Accuracy, AccuracyDifference]:
    """Return how right detections of a split's images are, and what they have more than the baseline's.

    Args:
        detections: of each image, in the split's order.
        split: what they were found in.
        baseline: file of what the baseline has found there.
        first: the detections are the baseline's, and are kept there.
        limit: most detections of a class in an image that count.
    """
    annotations = [split.annotations(index) for index in range(len(split))]
    if first:
        keep_detections(baseline, detections)
    accuracy = accuracy_of(detections, annotations, split.classes, limit=limit)
    worst = worst_images(detections, annotations, split.ids, len(split.classes), accuracy.confidence)
    accuracy = replace(accuracy, worst=worst)
    return accuracy, change_from(baseline, detections, annotations, len(split.classes), limit)


def change_from(
    baseline: Path,
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    limit: int = LIMIT,
) -> AccuracyDifference:
    """Compare detections with those that the baseline was kept with, image by image.

    Args:
        baseline: file of ``keep_detections``.
        detections: of each image.
        annotations: of the same images, in the same order.
        num_classes: of the dataset.
        limit: most detections of a class in an image that count.
    """
    try:
        before = kept_detections(baseline)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return _unknown("what the baseline found in each image was not kept")
    if len(before) != len(detections):
        return _unknown(f"the baseline was evaluated on {counted(len(before), 'image')}, this on {len(detections)}")
    return change_of(detections, before, annotations, num_classes, limit)


def change_of(
    detections: Sequence[Detections] | MapOfHalves,
    before: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    limit: int = LIMIT,
) -> AccuracyDifference:
    """Compare detections with others of the same images, in the same order: what they have more.

    Args:
        detections: of each image, or what ``draw`` has made of them.
        before: of each image.
        annotations: of each image.
        num_classes: of the dataset.
        limit: most detections of a class in an image that count.
    """
    one = detections if isinstance(detections, MapOfHalves) else draw(detections, annotations, num_classes, limit=limit)
    differences = differences_of(one, draw(before, annotations, num_classes, limit=limit))
    if any(ends is None for ends in differences.values()):
        return _unknown("the images hold no objects to find")
    return AccuracyDifference(
        dict(zip(CHANGES, (end for ends in differences.values() for end in ends or ()), strict=True))
    )


def _unknown(why: str) -> AccuracyDifference:
    return AccuracyDifference(reasons=dict.fromkeys(CHANGES, why))


def keep_detections(file: Path, detections: Sequence[Detections]) -> None:
    """Write what was found in each image, in their order (npz)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        file,
        count=np.array([len(image.scores) for image in detections], np.int64),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *(image.boxes for image in detections)]),
        scores=np.concatenate([np.zeros(0, np.float32), *(image.scores for image in detections)]),
        labels=np.concatenate([np.zeros(0, np.int64), *(image.labels for image in detections)]),
    )


def kept_detections(file: Path) -> list[Detections]:
    """Read what ``keep_detections`` has written.

    Raises:
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: it cannot be read, or is something else.
    """
    with file.open("rb") as handle, np.load(handle, allow_pickle=False) as kept:
        ends = np.cumsum(kept["count"])[:-1]
        columns = [np.split(kept[name], ends) for name in ("boxes", "scores", "labels")]
    return [Detections(*one) for one in zip(*columns, strict=True)]
