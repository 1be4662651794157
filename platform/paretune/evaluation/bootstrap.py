"""How sure a mean average precision is: images drawn anew, many times.

Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 5.2: the basic limits, 2 t - q. The
interpolated precision is a maximum, so a mean average precision of few images is too high, and that of images
drawn from these is too high once more; plain percentiles hold the truth in 87 of 100 cases where these hold it in 93
(100 images, one class).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.evaluation.coco import run
from paretune.structures import Annotations, Detections

DRAWS = 200
_RECALLS = np.linspace(0, 1, 101)
_ALL_AREAS, _LIMIT = [0.0, 1e10], 100


@dataclass(frozen=True)
class _Class:
    """Everything detected of one class, best score first, and what there was to detect."""

    image: NDArray[np.int64]
    """(D,) index of each detection's image."""
    hit: NDArray[np.bool_]
    """(IoUs, D)."""
    miss: NDArray[np.bool_]
    """(IoUs, D); on a crowd a detection is neither."""
    objects: NDArray[np.int64]
    """(images,) objects in each image."""


def map_interval(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float] | None:
    """Return ``map`` with its 95 % interval (low, map, high) over images drawn with replacement.

    None where there are no objects. Matching is done once; a draw only weighs its images.
    """
    classes = _matched(run(detections, annotations, num_classes), len(annotations))
    bounds = _interval(lambda weights: weighted_map(classes, weights), len(annotations), draws, seed)
    return None if bounds is None else (max(bounds[0], 0.0), bounds[1], min(bounds[2], 1.0))


def difference_intervals(
    first: Sequence[Detections],
    second: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, tuple[float, float, float] | None]:
    """Return how much higher the first one's ``map`` and ``map50`` are, with 95 % intervals (low, difference, high).

    Both are weighed by the same draws of the same images: what makes an image hard is no part of their difference.
    None where there are no objects.
    """
    both = [_matched(run(found, annotations, num_classes), len(annotations)) for found in (first, second)]
    loosest = [[replace(entry, hit=entry.hit[:1], miss=entry.miss[:1]) for entry in classes] for classes in both]

    def interval(pair: Sequence[Sequence[_Class]]) -> tuple[float, float, float] | None:
        def difference(weights: NDArray[np.float64]) -> float | None:
            one, other = (weighted_map(classes, weights) for classes in pair)
            return None if one is None or other is None else one - other

        return _interval(difference, len(annotations), draws, seed)

    return {"map": interval(both), "map50": interval(loosest)}


def _interval(
    figure: Callable[[NDArray[np.float64]], float | None], images: int, draws: int, seed: int
) -> tuple[float, float, float] | None:
    """Return a figure of so many images with its 95 % interval: (low, figure, high); None where it is not known.

    Args:
        figure: of how often each image counts, (images,).
        images: how many.
        draws: of as many images, with replacement.
        seed: of the draws.
    """
    whole = figure(np.ones(images))
    if whole is None:
        return None
    random = np.random.default_rng(seed)
    drawn = (np.bincount(random.integers(0, images, images), minlength=images) for _ in range(draws))
    values = [value for counts in drawn if (value := figure(counts.astype(np.float64))) is not None]
    low, high = 2 * whole - np.percentile(values, [97.5, 2.5])
    return float(low), whole, float(high)


def weighted_map(classes: Sequence[_Class], weights: NDArray[np.float64]) -> float | None:
    """Return COCO's map with each image counted so many times; with ones it is pycocotools' own number."""
    precisions = []
    for entry in classes:
        objects = float(entry.objects @ weights)
        if objects:
            own = weights[entry.image]
            hits, misses = np.cumsum(entry.hit * own, axis=1), np.cumsum(entry.miss * own, axis=1)
            precisions.append(_interpolated(hits, misses, objects))
    return float(np.mean(precisions)) if precisions else None


def _interpolated(hits: NDArray[np.float64], misses: NDArray[np.float64], objects: float) -> float:
    """Return the mean over IoUs and 101 recalls of the precision, made to fall only."""
    precision = hits / np.maximum(hits + misses, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for recall, row in zip(hits / objects, envelope, strict=True):
        places = np.searchsorted(recall, _RECALLS, side="left")
        total += float(row[places[places < len(row)]].sum())
    return total / (len(_RECALLS) * len(hits))


def _matched(evaluation: Any, images: int) -> list[_Class]:
    """Read out of an engine's COCOeval which detections are hits."""
    parts: dict[int, list[dict[str, Any]]] = {}
    for entry in evaluation.evalImgs:
        if entry and list(entry["aRng"]) == _ALL_AREAS and entry["maxDet"] == _LIMIT:
            parts.setdefault(entry["category_id"], []).append(entry)
    found = []
    for entries in parts.values():
        objects = np.zeros(images, np.int64)
        for entry in entries:
            objects[entry["image_id"] - 1] = int((~np.asarray(entry["gtIgnore"], bool)).sum())
        finds = [entry for entry in entries if len(entry["dtScores"])]
        scores = np.concatenate([np.zeros(0), *(np.asarray(entry["dtScores"], np.float64) for entry in finds)])
        order = np.argsort(-scores, kind="stable")
        counts = [len(entry["dtScores"]) for entry in finds]
        image = np.repeat(np.array([entry["image_id"] - 1 for entry in finds], np.int64), counts)
        matched, ignored = (
            np.concatenate([np.zeros((10, 0), bool), *(np.asarray(e[key], bool) for e in finds)], axis=1)[:, order]
            for key in ("dtMatched", "dtIgnore")
        )
        found.append(_Class(image[order], matched & ~ignored, ~matched & ~ignored, objects))
    return found
