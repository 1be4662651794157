"""Evaluation: the engine of sweeps equal to pycocotools on every case tried, and how much faster it is; intervals.

``--part intervals``: what the intervals of map and of a difference cost, and how often they hold the truth of a
simulated world.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figures, parser_of
from rich.progress import track
from simulated import version, world

sys.path.append(str(Path(__file__).parents[1]))

from paretune.core.types import Annotations, Detections
from paretune.evaluation.coco_metrics import CocoMetricsByClass, average_precisions
from paretune.evaluation.map_bootstrap import differences_of, draw, interval_of
from paretune.workflows.evaluate import EvaluationOptions, evaluate_files
from tests_support_coco import coco_oracle

CASES = 300
Case = tuple[list[Detections], list[Annotations]]
IMAGES, DETECTIONS, CLASSES = 5000, 100, 80
"""COCO's own validation split, as a detector fills it."""
SIMULATIONS, HALVES = 480, 200
"""The share of so many that hold the truth is known to a point; the ends of the interval hardly depend on how many
halves there are: a fifth of the product's are enough here."""
SIZES = (100, 1000)
WORLDS = ((1, 8000, 4.0), (4, 20000, 2.0))
"""Classes, images in all the world, objects in each: of four classes the last is a quarter as common as the first."""


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


def difference(one: CocoMetricsByClass, other: CocoMetricsByClass) -> float:
    """Return the largest difference of any number; infinite where one alone is unknown."""
    pairs = zip([*one.numbers().values(), *one.per_class], [*other.numbers().values(), *other.per_class], strict=True)
    return max(0.0 if a is b is None else np.inf if a is None or b is None else abs(a - b) for a, b in pairs)


def timed(found: Case, compute: Callable[..., CocoMetricsByClass]) -> tuple[float, CocoMetricsByClass]:
    """Return how long one evaluation takes, and its numbers."""
    start = time.perf_counter()
    averages = compute(*found, CLASSES)
    return time.perf_counter() - start, averages


@cache
def population(classes: int, images: int, objects: float) -> tuple[list[Annotations], tuple[list[Detections], ...]]:
    """Return a world, and what two versions of a detector find in it."""
    random = np.random.default_rng(0)
    there = world(random, images, classes, objects)
    return there.annotations, (version(there, random), version(there, random, worse=0.25))


@cache
def truth(*there: float) -> list[float]:
    """Return the map of both versions in all the world."""
    annotations, versions = population(*there)
    return [average_precisions(found, annotations, there[0]).map or 0.0 for found in versions]


def held(job: tuple[int, int, tuple[int, int, float]]) -> tuple[bool, bool]:
    """Tell whether the intervals of map and of the difference hold the truth, of some images of the world."""
    number, images, there = job
    annotations, versions = population(*there)
    chosen = np.random.default_rng((number, images)).integers(0, len(annotations), images)
    some = [annotations[index] for index in chosen]
    one, other = (draw([found[i] for i in chosen], some, there[0], draws=HALVES, seed=number) for found in versions)
    (low, _, high), change = interval_of(one), differences_of(one, other)["map"]
    first, second = truth(*there)
    return low <= first <= high, change[0] <= first - second <= change[2]


def coverage(figures: Figures) -> None:
    """Add how often the intervals hold the truth: two worlds, 100 and 1,000 images of each."""
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn")) as pool:
        for there in WORLDS:
            for images in SIZES:
                jobs = [(number, images, there) for number in range(SIMULATIONS)]
                found = np.array(list(pool.map(held, jobs, chunksize=SIMULATIONS // 20)))
                sure = f"{there[0]} classes, {images} images, {SIMULATIONS} simulations"
                for name, share in zip(("map", "its difference"), found.mean(axis=0), strict=True):
                    figures.add(f"intervals that hold {name}: {sure}", 100 * share, "%", at_least=93, at_most=97)
                print(f"{sure}: {100 * found.mean(axis=0)} %", flush=True)


def written(folder: Path, found: Case) -> tuple[Path, Path]:
    """Write detections and annotations as COCO's files."""
    rows: tuple[list[dict[str, Any]], ...] = ([], [])
    for part, entries in zip(rows, found, strict=True):
        for image, entry in enumerate(entries, start=1):
            boxes = entry.boxes.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            more = entry.scores if isinstance(entry, Detections) else entry.ignore
            for box, label, value in zip(boxes.tolist(), entry.labels.tolist(), more.tolist(), strict=True):
                own = {"score": value} if part is rows[0] else {"iscrowd": int(value), "id": len(part) + 1}
                part.append({"image_id": image, "category_id": label + 1, "bbox": box, **own})
    numbered = [{"id": number} for number in range(1, len(found[0]) + 1)]
    kinds = [{"id": number, "name": str(number)} for number in range(1, CLASSES + 1)]
    (folder / "truth.json").write_text(
        json.dumps({"images": numbered, "categories": kinds, "annotations": rows[1]}), encoding="utf-8"
    )
    (folder / "found.json").write_text(json.dumps(rows[0]), encoding="utf-8")
    return folder / "truth.json", folder / "found.json"


def cpu(of: Callable[[], object]) -> float:
    """Return the CPU seconds of all threads that something takes."""
    start = time.process_time()
    of()
    return time.process_time() - start


def peak() -> float:
    """Return the most memory that this process has held, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def cost(figures: Figures) -> None:
    """Add what intervals cost, in CPU seconds of all threads."""
    random = np.random.default_rng(0)
    for images in (300, IMAGES):
        full = case(random, images, (DETECTIONS, DETECTIONS), CLASSES)
        before = peak()
        alone = cpu(lambda full=full: interval_of(draw(*full, CLASSES)))
        promised = {300: 0.5, IMAGES: 15.0}[images]  # a network that takes 10 ms an image takes 3 s for 300 of them
        name = f"{images} x {CLASSES} x {DETECTIONS}"
        figures.add(f"interval of map, {name}, CPU", alone, "s", at_most=promised)
        if images == IMAGES:
            figures.add(f"memory it adds, {name}", peak() - before, "GiB", at_most=2)
        with tempfile.TemporaryDirectory() as folder:
            files = written(Path(folder), full)
            whole = cpu(lambda files=files: evaluate_files(*files, EvaluationOptions()))
        figures.add(f"evaluate with files and interval, {name}, CPU", whole, "s")
        figures.add(f"share of the interval, {name}, no inference", 100 * alone / whole, "%")
        print(f"{name}: interval {alone:.2f} of {whole:.2f} CPU seconds", flush=True)


def intervals(figures: Figures) -> None:
    """Add what intervals cost, and how often they hold the truth."""
    cost(figures)
    coverage(figures)


def engines(figures: Figures) -> None:
    """Compare on small odd cases, then on one as large as COCO's validation split."""
    random = np.random.default_rng(0)
    largest = 0.0
    for number in track(range(CASES), "odd cases", disable=not sys.stderr.isatty()):
        classes = int(random.integers(1, 7))
        found = case(random, int(random.integers(1, 12)), (0, (8, 150)[number % 2]), classes)
        one, other = (compute(*found, classes) for compute in (average_precisions, coco_oracle))
        largest = max(largest, difference(one, other))
    full = case(random, IMAGES, (DETECTIONS, DETECTIONS), CLASSES)
    ours = [timed(full, average_precisions) for _ in range(3)]
    middle = sorted(took for took, _ in ours)[1]
    print(f"{IMAGES} x {DETECTIONS}: hotcoco {middle:.2f} s; pycocotools takes minutes …", flush=True)
    theirs, oracle = timed(full, coco_oracle)
    figures.add("cases compared", CASES)
    figures.add("largest difference of any number from pycocotools", largest, at_most=1e-9)
    figures.add("the same on 5,000 x 100", difference(ours[0][1], oracle), at_most=1e-9)
    figures.add("seconds of the engine of sweeps, 5,000 x 100", middle, "s")
    figures.add("seconds of pycocotools, the same", theirs, "s")
    figures.add("times as fast", theirs / middle, "x", at_least=50)


PARTS = {"engines": engines, "intervals": intervals}


def main() -> int:
    """Run the parts that are asked for, all by default."""
    parser = parser_of(__doc__)
    parser.add_argument("--part", action="append", choices=PARTS, help="take this one (default: all)")
    given = parser.parse_args()
    figures = Figures("evaluation")
    for part in given.part or PARTS:
        PARTS[part](figures)
    return figures.end(as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
