"""Splits in memory, and what was found in their pictures, for tests of an accuracy before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paretune.core.types import Annotations, Detections, Image
from paretune.workflows.accuracy_change import AccuracyChange, Reference, accuracy_change
from tests_support_evaluation import none_found, random_case

CLASSES = ("a", "b", "c")


class Numbered:
    """A split whose pictures are their own numbers."""

    def __init__(self, annotations: Sequence[Annotations], classes: Sequence[str] = CLASSES, *, first: int = 0) -> None:
        self.classes, self.ids = tuple(classes), range(first, first + len(annotations))
        self._annotations = annotations

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        return np.full((1, 1, 3), self.ids[index], np.uint8)

    def annotations(self, index: int) -> Annotations:
        return self._annotations[index]


def finding(detections: Sequence[Detections]) -> Callable[[Image], Detections]:
    """A detector that has found these, by the pictures' numbers."""
    return lambda image: detections[image[0, 0, 0]]


def thinned(detections: Sequence[Detections], every: int) -> list[Detections]:
    return [Detections(one.boxes[::every], one.scores[::every], one.labels[::every]) for one in detections]


def blind(detections: Sequence[Detections]) -> list[Detections]:
    return [none_found() for _ in detections]


def changed(folder: Path, worse: Callable[[list[Detections]], list[Detections]]) -> AccuracyChange:
    """What a result has lost that finds less than what it was made from."""
    detections, annotations = random_case(3, images=40, classes=3, score_steps=2**20)
    reference = Reference(lambda: ("dense in eager", finding(detections)), folder)
    return accuracy_change(finding(worse(detections)), reference, {"val": Numbered(annotations)})
