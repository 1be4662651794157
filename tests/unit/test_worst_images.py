"""The images with the most mistakes, which a trial's record names."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections
from paretune.evaluation.accuracy import accuracy_of
from paretune.evaluation.baseline_difference import evaluate_beside
from paretune.evaluation.worst_images import LONGEST, MOST_BOXES, PICTURED, keep_worst_pictures, worst_images

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

    def image(self, index: int) -> NDArray[np.uint8]:
        """Red in the left half of a picture of 300 x 100, and a little brighter from image to image in the right."""
        image = np.zeros((100, 300, 3), np.uint8)
        image[:, :150] = (250, 10, 10)
        image[:, 150:] = 40 * index
        return image


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


def test_small_pictures_of_the_worst_are_kept_with_the_boxes_that_count(tmp_path: Path) -> None:
    detections = [detected for detected, _ in IMAGES.values()]
    accuracy, _ = evaluate_beside(detections, Named(), tmp_path / "base.npz", first=True)  # type: ignore[arg-type]
    accuracy = replace(accuracy, confidence=0.65, worst=worst(0.65))
    keep_worst_pictures(tmp_path / "worst.json", accuracy, detections, Named())  # type: ignore[arg-type]
    kept = json.loads((tmp_path / "worst.json").read_text())
    assert kept["confidence"] == 0.65
    assert [one["image"] for one in kept["images"]] == [one["image"] for one in worst(0.65)][:PICTURED]
    most = next(one for one in kept["images"] if one["image"] == "three too many")
    assert (most["width"], most["height"], most["objects"], most["detected"]) == (300, 100, 1, 3)
    assert most["truth"] == [[0, 0, 10, 10, "cat"]]
    far = [50, 50, 60, 60]
    assert most["found"] == [[0, 0, 10, 10, "cat", 0.9], [*far, "cat", 0.8], [*far, "dog", 0.7]]
    kind, content = most["picture"].split(",")
    assert kind == "data:image/webp;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    assert max(picture.shape) == LONGEST
    assert np.abs(picture[40, 30].astype(int) - (250, 10, 10)).max() < 12  # red is red
    assert np.abs(picture[40, 220].astype(int) - 160).max() < 12  # the fifth image


def test_of_a_crowded_image_the_first_boxes_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    split = Named()
    split.ids = ("crowded",)
    boxes = tuple(((float(place), 0.0, place + 5.0, 9.0), 0.9 - 0.001 * place, 0) for place in range(MOST_BOXES + 20))
    accuracy = accuracy_of([found(*boxes)], [truth(0)], split.classes, confidence=0.5)
    accuracy = replace(accuracy, worst=({"image": "crowded", "wrong": 70, "missed": 0},))
    keep_worst_pictures(tmp_path / "worst.json", accuracy, [found(*boxes)], split)  # type: ignore[arg-type]
    (one,) = json.loads((tmp_path / "worst.json").read_text())["images"]
    assert (len(one["found"]), one["detected"]) == (MOST_BOXES, MOST_BOXES + 20)
    assert one["found"][0][0] == 0
    assert one["found"][-1][0] == MOST_BOXES - 1
