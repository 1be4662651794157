"""The images with the most mistakes, which a trial's record names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paretune.core.types import Annotations, Detections
from paretune.evaluation.accuracy import accuracy_of
from paretune.evaluation.baseline_difference import evaluate_beside
from paretune.evaluation.worst_images import worst_images

BOX = (0.0, 0.0, 10.0, 10.0)
FAR = (50.0, 50.0, 60.0, 60.0)


def truth(*labels: int) -> Annotations:
    boxes = np.array([BOX, FAR][: len(labels)], np.float32).reshape(-1, 4)
    return Annotations(boxes, np.array(labels, np.int64), np.zeros(len(labels), bool))


def found(*rows: tuple[tuple[float, ...], float, int]) -> Detections:
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([r[1] for r in rows], np.float32), np.array([r[2] for r in rows], np.int64))


IMAGES = {
    "right": (found((BOX, 0.9, 0)), truth(0)),
    "missed two": (found(), truth(0, 1)),
    "unsure": (found((BOX, 0.1, 0)), truth(0)),
    "another class": (found((BOX, 0.9, 1)), truth(0)),
    "three too many": (found((BOX, 0.9, 0), (FAR, 0.8, 0), (FAR, 0.7, 1), (FAR, 0.6, 0)), truth(0)),
}
"""Name → detections and objects; the mistakes below are counted by hand."""


def worst(confidence: float | None = 0.5, most: int = 6) -> tuple[dict[str, str | int], ...]:
    detections, annotations = zip(*IMAGES.values(), strict=True)
    return worst_images(detections, annotations, list(IMAGES), 2, confidence, most)


def test_wrong_and_missed_are_counted_and_the_worst_come_first() -> None:
    assert worst() == (
        {"image": "three too many", "wrong": 3, "missed": 0},
        {"image": "missed two", "wrong": 0, "missed": 2},
        {"image": "another class", "wrong": 1, "missed": 1},
        {"image": "unsure", "wrong": 0, "missed": 1},
    )
    assert [image["image"] for image in worst(most=2)] == ["three too many", "missed two"]


def test_without_a_confidence_no_image_is_named() -> None:
    assert worst(None) == ()


class Named:
    """The images as a split."""

    classes = ("cat", "dog")
    ids = tuple(IMAGES)

    def __len__(self) -> int:
        return len(IMAGES)

    def annotations(self, index: int) -> Annotations:
        return list(IMAGES.values())[index][1]


def test_an_evaluation_beside_the_baseline_names_them(tmp_path: Path) -> None:
    detections = [detected for detected, _ in IMAGES.values()]
    accuracy, _ = evaluate_beside(detections, Named(), tmp_path / "base.npz", first=True)  # type: ignore[arg-type]
    assert accuracy.confidence is not None
    assert accuracy.facts()["worst_images"] == list(worst(accuracy.confidence))
    assert accuracy.facts()["worst_images"]


def test_a_record_keeps_the_precision_of_each_class() -> None:
    detections, annotations = zip(*list(IMAGES.values())[:2], strict=True)
    accuracy = accuracy_of(detections, annotations, ("cat", "dog", "cow"))
    facts = accuracy.facts()
    assert facts["worst_images"] == []
    assert facts["classes"] == {"cat": pytest.approx(0.5, abs=0.01), "dog": 0.0, "cow": None}
