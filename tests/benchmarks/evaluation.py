"""Evaluation: the engine of sweeps equal to pycocotools on every case tried, and how much faster it is."""

from __future__ import annotations

import sys
import time

import numpy as np
from figures import Figures, arguments
from rich.progress import track

from paretune.evaluation.coco import Averages, Engine, average_precisions
from paretune.structures import Annotations, Detections

CASES = 300
Case = tuple[list[Detections], list[Annotations]]
IMAGES, DETECTIONS, CLASSES = 5000, 100, 80
"""COCO's own validation split, as a detector fills it."""


def case(random: np.random.Generator, images: int, limits: tuple[int, int], classes: int) -> Case:
    """Make images with objects, crowds, ties, misplaced and invented detections; some without either."""
    detections, annotations = [], []
    for _ in range(images):
        count = int(random.integers(0, 12))
        corner, sides = random.uniform(0, 400, (count, 2)), np.exp(random.uniform(1.5, 5.5, (count, 2)))
        boxes, labels = np.concatenate([corner, corner + sides], axis=1), random.integers(0, classes, count)
        if random.random() < 0.2:
            boxes = boxes.round()  # overlaps of exactly 0.5, 0.75 …
        annotations.append(
            Annotations(
                boxes.astype(np.float32),
                labels,
                random.random(count) < 0.1,
                (sides.prod(axis=1) * random.uniform(0.4, 1, count)).astype(np.float32),
            )
        )
        found = int(random.integers(limits[0], limits[1] + 1))
        copies = random.integers(0, max(count, 1), found)
        base = boxes[copies] if count else np.tile([0.0, 0, 50, 50], (found, 1))
        moved = base + random.normal(0, 6, (found, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        kinds = labels[copies] if count else np.zeros(found, np.int64)
        kinds = np.where(random.random(found) < 0.2, random.integers(0, classes, found), kinds)
        scores = np.sort(random.integers(1, 50, found) / 50)[::-1].astype(np.float32)
        detections.append(Detections(moved.astype(np.float32), scores, kinds))
    return detections, annotations


def difference(one: Averages, other: Averages) -> float:
    """Return the largest difference of any number; infinite where one alone is unknown."""
    pairs = zip([*one.numbers().values(), *one.per_class], [*other.numbers().values(), *other.per_class], strict=True)
    return max(0.0 if a is b is None else np.inf if a is None or b is None else abs(a - b) for a, b in pairs)


def timed(found: Case, engine: Engine) -> tuple[float, Averages]:
    """Return how long one evaluation takes, and its numbers."""
    start = time.perf_counter()
    averages = average_precisions(*found, CLASSES, engine)
    return time.perf_counter() - start, averages


def main() -> int:
    """Compare on small odd cases, then on one as large as COCO's validation split."""
    given = arguments(__doc__)
    random = np.random.default_rng(0)
    largest = 0.0
    for number in track(range(CASES), "odd cases", disable=not sys.stderr.isatty()):
        classes = int(random.integers(1, 7))
        found = case(random, int(random.integers(1, 12)), (0, (8, 150)[number % 2]), classes)
        one, other = (average_precisions(*found, classes, engine) for engine in ("hotcoco", "pycocotools"))
        largest = max(largest, difference(one, other))
    full = case(random, IMAGES, (DETECTIONS, DETECTIONS), CLASSES)
    ours = [timed(full, "hotcoco") for _ in range(3)]
    middle = sorted(took for took, _ in ours)[1]
    print(f"{IMAGES} x {DETECTIONS}: hotcoco {middle:.2f} s; pycocotools takes minutes …", flush=True)
    theirs, oracle = timed(full, "pycocotools")
    figures = Figures("evaluation")
    figures.add("cases compared", CASES)
    figures.add("largest difference of any number from pycocotools", largest, at_most=1e-9)
    figures.add("the same on 5,000 x 100", difference(ours[0][1], oracle), at_most=1e-9)
    figures.add("seconds of the engine of sweeps, 5,000 x 100", middle, "s")
    figures.add("seconds of pycocotools, the same", theirs, "s")
    figures.add("times as fast", theirs / middle, "x", at_least=50)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
