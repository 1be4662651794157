"""How sure a mean average precision is, and a difference of two: the images drawn anew, a thousand times.

Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 5.2: the basic limits, 2 t - q. The
interpolated precision is a maximum, so a mean average precision of few images is too high, and that of images
drawn from these is too high once more; plain percentiles hold the truth in 87 of 100 cases where these hold it in 93
(100 images, one class).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.evaluation.coco import matches_of
from paretune.evaluation.weighing import ranked, weighted_maps
from paretune.structures import Annotations, Detections

DRAWS = 1000
Interval = tuple[float, float, float]
"""Lower end, figure, upper end."""


@dataclass(frozen=True)
class Drawn:
    """The mean average precision of some detections, and what it is where other images are drawn."""

    whole: NDArray[np.float64]
    """(IoUs,) of all images, each once; NaN where they hold no objects."""
    drawn: NDArray[np.float64]
    """(IoUs, D) of each draw: as many of the images, with replacement; NaN where these hold no objects."""


def draw(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Drawn:
    """Return the mean average precision of detections and of their images drawn anew.

    Matching is done once; a draw only weighs its images. The same seed draws the same of as many images.

    Args:
        detections: of each image.
        annotations: of the same images, in the same order.
        num_classes: of the dataset.
        draws: how many.
        seed: of the draws.
    """
    classes, images = ranked(matches_of(detections, annotations, num_classes)), len(annotations)
    if not classes:
        return Drawn(np.full(10, np.nan), np.full((10, draws), np.nan))
    random = np.random.default_rng(seed)
    drawn = (np.bincount(random.integers(0, images, images), minlength=images) for _ in range(draws))
    weights = np.stack([counts.astype(np.float32) for counts in drawn], axis=1)
    return Drawn(weighted_maps(classes, np.ones((images, 1)))[:, 0], weighted_maps(classes, weights))


def map_interval(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval | None:
    """Return ``map`` with its 95 % interval (low, map, high) over images drawn with replacement.

    None where there are no objects.
    """
    return interval_of(draw(detections, annotations, num_classes, draws=draws, seed=seed))


def interval_of(drawn: Drawn) -> Interval | None:
    """Return the same of what has been drawn."""
    bounds = _interval(drawn.whole.mean(), drawn.drawn.mean(axis=0))
    return None if bounds is None else (max(bounds[0], 0.0), bounds[1], min(bounds[2], 1.0))


def difference_intervals(
    first: Sequence[Detections],
    second: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval | None]:
    """Return how much higher the first one's ``map`` and ``map50`` are, with 95 % intervals (low, difference, high).

    Both are weighed by the same draws of the same images: what makes an image hard is no part of their difference.
    None where there are no objects.
    """
    one, other = (draw(found, annotations, num_classes, draws=draws, seed=seed) for found in (first, second))
    return differences_of(one, other)


def differences_of(first: Drawn, second: Drawn) -> dict[str, Interval | None]:
    """Return the same of what has been drawn, by the same seed of the same images."""
    whole, drawn = first.whole - second.whole, first.drawn - second.drawn
    return {"map": _interval(whole.mean(), drawn.mean(axis=0)), "map50": _interval(whole[0], drawn[0])}


def _interval(figure: float, drawn: NDArray[np.float64]) -> Interval | None:
    """Return a figure between the ends of its 95 % interval; None where it is not known."""
    if np.isnan(figure):
        return None
    low, high = 2 * figure - np.nanpercentile(drawn, [97.5, 2.5])
    return float(low), float(figure), float(high)
