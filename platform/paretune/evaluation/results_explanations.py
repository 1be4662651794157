"""Reasons why another program's results have a map near 0, or a limit binds, which are printed beside the figure.

Each reading of ids and boxes that people mix up is tried, and reported where far more detections lie on objects by
it than as they are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections
from paretune.evaluation.id_matching import Id
from paretune.evaluation.matching import IOU, overlap

LOOKED_AT = 300
"""Images with objects that boxes are compared in: what is mixed up is so in all."""
FEWEST = 3
"""Detections below which nothing is concluded."""
CONSISTENT = 0.8
"""Share of what is wrong that one explanation has to explain."""
STEP = 32
"""Pixels that sides of a network's input are multiples of."""
Sizes = Sequence[tuple[float, float] | None]
Boxes = Any
"""(N, 4) x1 y1 x2 y2, of whatever float they are written in."""


def explained(
    detections: Sequence[Detections], annotations: Sequence[Annotations], categories: Sequence[Id], sizes: Sizes
) -> list[str]:
    """Return what seems to be wrong with results, a line each.

    Args:
        detections: of each image, best first, read as x, y, width, height.
        annotations: of the same images.
        categories: ids, by label.
        sizes: (width, height) of each image in the ground truth, or None.
    """
    pairs = [
        (index, _best(detected, truth), truth)
        for index, (detected, truth) in enumerate(zip(detections, annotations, strict=True))
        if len(detected.scores) and not truth.ignore.all()
    ][:LOOKED_AT]
    return [*_scores(detections), *(_boxes(pairs, sizes) or _labels(pairs, categories))]


def limit_notes(detections: Sequence[Detections], annotations: Sequence[Annotations], limit: int) -> list[str]:
    """Return where COCO's limit of detections binds: of each class in an image only so many, the best, count."""
    objects = [_most(truth.labels[~truth.ignore]) for truth in annotations]
    found = [np.unique(one.labels, return_counts=True)[1] for one in detections]
    beyond = [int(np.maximum(counts - limit, 0).sum()) for counts in found]
    crowded, left = sum(count > limit for count in objects), sum(count > 0 for count in beyond)
    notes = []
    if crowded:
        enough = -(-max(objects) // 100) * 100
        notes.append(
            f"COCO's limit of {limit} detections of a class in an image binds: {crowded} of {len(objects)} images hold "
            f"more objects than that, so that map and recall cannot reach 1; --max-detections {enough} takes them all"
        )
    if left:
        notes.append(
            f"{sum(beyond)} detections in {left} of {len(found)} images are beyond the best {limit} of a class, "
            "and do not count"
        )
    return notes


def most_kept(detections: Sequence[Detections], most: int, annotations: Sequence[Annotations]) -> list[str]:
    """Return where an artefact's own limit of boxes in an image binds and the image holds more objects than that."""
    full = [len(one.scores) >= most for one in detections]
    bound = sum(reached and len(truth.labels) > most for reached, truth in zip(full, annotations, strict=True))
    if not bound:
        return []
    message = f"the artefact keeps at most {most} boxes of an image, which binds in {bound} of {len(full)} images"
    return [f"{message}: they hold more objects; `thresholds: {{detections: …}}` in the job allows more"]


def _most(labels: NDArray[np.int64]) -> int:
    return int(np.unique(labels, return_counts=True)[1].max(initial=0))


def _best(found: Detections, truth: Annotations) -> Detections:
    """Return as many detections, best first, as there are objects: those that a map near 1 would be made of."""
    count = int((~truth.ignore).sum())
    return Detections(found.boxes[:count], found.scores[:count], found.labels[:count])


def _scores(detections: Sequence[Detections]) -> Iterator[str]:
    scores = np.concatenate([np.zeros(0), *(detected.scores for detected in detections)])
    odd = scores[(scores < 0) | (scores > 1)]
    if len(odd):
        message = f"scores from {scores.min():g} to {scores.max():g}, {len(odd)} of {len(scores)} of them beyond 0 to 1"
        percent = "; are they percent?" if scores.min() >= 0 and 50 < scores.max() <= 100 else ""
        yield f"{message}: their order alone makes map; a confidence is on their scale{percent}"


Pairs = Sequence[tuple[int, Detections, Annotations]]


def _boxes(pairs: Pairs, sizes: Sizes) -> list[str]:
    """Return a note on another reading of the boxes by which far more of them lie on objects, if there is one."""
    every = sum(len(detected.scores) for _, detected, _ in pairs)
    if every < FEWEST:
        return []
    now = _on_objects(pairs, lambda _, boxes: boxes)
    tried = [(_on_objects(pairs, read), meaning) for meaning, read in _readings(pairs, sizes)]
    best, meaning = max(tried, key=lambda entry: entry[0])
    if best < every / 3 or best < 2 * now:
        return []
    return [
        f"{best} of {every} boxes lie on an object (IoU {IOU:g}) {meaning}, {now} as x, y, width, height in its pixels"
    ]


def _on_objects(pairs: Pairs, read: Callable[[int, Boxes], Boxes]) -> int:
    """Return how many boxes, as they are read, lie on an object of whatever class."""
    return sum(int((place >= 0).sum()) for place in (_object(read(i, f.boxes), truth) for i, f, truth in pairs))


def _object(boxes: Boxes, truth: Annotations) -> NDArray[np.int64]:
    """Return the object that each box lies on; -1 for none."""
    shared = overlap(boxes, truth.boxes, truth.ignore)
    shared[:, truth.ignore] = 0
    return np.where(shared.max(axis=1) >= IOU, shared.argmax(axis=1), -1)


def _readings(pairs: Pairs, sizes: Sizes) -> Iterator[tuple[str, Callable[[int, Boxes], Boxes]]]:
    """Yield meanings that boxes could have instead of x, y, width, height in pixels of their image, with readings.

    Boxes come as corners x, y, x + width, y + height.
    """

    def sides(boxes: Boxes) -> Boxes:
        return boxes[:, 2:] - boxes[:, :2]

    yield "read as corners x1, y1, x2, y2", lambda _, boxes: np.concatenate([boxes[:, :2], sides(boxes)], axis=1)
    yield (
        "read as centre, width, height",
        lambda _, boxes: np.concatenate([boxes[:, :2] - sides(boxes) / 2, boxes[:, :2] + sides(boxes) / 2], axis=1),
    )
    ratios = np.array([_ratio(detected, truth) for _, detected, truth in pairs])
    across, down = np.median(ratios, axis=0)
    if min(across, down) > 0:
        factors = np.array([1 / across, 1 / down] * 2)
        yield f"times {factors[0]:.3g} across and {factors[1]:.3g} down", lambda _, boxes: boxes * factors
    known = [sizes[index] for index, _, _ in pairs]
    if any(size is None for size in known):
        return
    shapes = np.array(known, np.float64)
    if np.median([detected.boxes.max(initial=0) for _, detected, _ in pairs]) <= 2:
        yield "read as shares of the image's sides", lambda index, boxes: boxes * np.array([*sizes[index]] * 2)  # type: ignore[misc]
        return
    width, height = _snapped(shapes * ratios)
    (longest,) = _snapped(shapes.max(axis=1, keepdims=True) * ratios.mean(axis=1, keepdims=True))
    if min(width, height, longest) > 0:
        yield (
            f"where every image is stretched to {width:g} x {height:g}",
            lambda index, boxes: boxes * np.array([*sizes[index]] * 2) / np.array([width, height] * 2),  # type: ignore[misc]
        )
        yield (
            f"where every image's longer side is {longest:g}",
            lambda index, boxes: boxes * (max(sizes[index]) / longest),  # type: ignore[arg-type]
        )


def _ratio(found: Detections, truth: Annotations) -> NDArray[np.float64]:
    """Return how far right and down boxes lie, in terms of the objects: the same things are likely to be meant."""
    middle, theirs = (np.median(boxes[:, :2] + boxes[:, 2:], axis=0) for boxes in (found.boxes, truth.boxes))
    return np.asarray(middle / np.maximum(theirs, 1e-9))


def _snapped(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.round(np.median(sides, axis=0) / STEP) * STEP)


def _labels(pairs: Pairs, categories: Sequence[Id]) -> list[str]:
    """Return a note where most detections on an object have another category than it, with a remedy."""
    seen: Counter[tuple[int, int]] = Counter()
    for _, detected, truth in pairs:
        at = _object(detected.boxes, truth)
        seen.update(zip(detected.labels[at >= 0].tolist(), truth.labels[at[at >= 0]].tolist(), strict=True))
    every, right = seen.total(), sum(count for (one, other), count in seen.items() if one == other)
    if every < FEWEST or right > every / 2:
        return []
    message = f"{every - right} of {every} detections that lie on an object (IoU {IOU:g}) have another category than it"
    ids = [(categories[one], categories[other], count) for (one, other), count in seen.items()]
    if any(isinstance(number, str) for number in categories):
        return [f"{message}: are the categories in another order?"]
    shifts: Counter[float] = Counter()
    for one, other, count in ids:
        shifts[other - one] += count  # type: ignore[operator]
    (shift, often), *_ = shifts.most_common(1)
    if often >= CONSISTENT * every:
        return [f"{message}: are ids shifted by {-shift:+g}? {_example(ids, lambda one, other: other - one == shift)}"]
    for first in (0, 1):
        fits = [(one, other, count) for one, other, count in ids if _nth(categories, one, first) == other]
        if sum(count for *_, count in fits) >= CONSISTENT * every:
            hint = f"are they places in the list of categories, counted from {first}?"
            return [f"{message}: {hint} {_example(fits, lambda *_: True)}"]
    return [f"{message}: {_example(ids, lambda one, other: one != other)}; are the categories in another order?"]


def _nth(categories: Sequence[Id], one: Id, first: int) -> Id | None:
    place = int(one) - first
    return categories[place] if 0 <= place < len(categories) else None


def _example(ids: Sequence[tuple[Id, Id, int]], fits: Callable[..., bool]) -> str:
    one, other, _ = max(((a, b, n) for a, b, n in ids if fits(a, b)), key=lambda entry: entry[2])
    return f"what is called {one} lies on objects of {other}"
