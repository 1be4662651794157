"""Random detections and annotations that several tests of the evaluation share."""

from __future__ import annotations

import numpy as np

from paretune.core.types import Annotations, Detections


def truth_of(boxes, labels, ignore=None):
    ignore = [False] * len(labels) if ignore is None else ignore
    return Annotations(np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(ignore, bool))


def perfect(truth: Annotations, score: float = 0.9) -> Detections:
    return Detections(truth.boxes, np.full(len(truth.labels), score, np.float32), truth.labels)


def none_found() -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def random_case(seed, *, images, classes, crowds=True, score_steps=20):
    """Annotations, and detections that are moved, doubled, mislabelled or invented; scores with ties."""
    random = np.random.default_rng(seed)
    detections, annotations = [], []
    for _ in range(images):
        count = int(random.integers(1, 8))
        corner, sides = random.uniform(0, 150, (count, 2)), random.uniform(8, 60, (count, 2))
        boxes = np.concatenate([corner, corner + sides], axis=1)
        labels = random.integers(0, classes, count)
        annotations.append(truth_of(boxes, labels, random.random(count) < 0.2 if crowds else None))
        copies = random.integers(0, count, 2 * count)
        moved = boxes[copies] + random.normal(0, 3, (2 * count, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        kinds = np.where(random.random(2 * count) < 0.15, random.integers(0, classes, 2 * count), labels[copies])
        scores = random.integers(1, score_steps, 2 * count) / score_steps
        best = np.argsort(-scores, kind="stable")
        detections.append(
            Detections(moved[best].astype(np.float32), scores[best].astype(np.float32), kinds[best].astype(np.int64))
        )
    return detections, annotations
