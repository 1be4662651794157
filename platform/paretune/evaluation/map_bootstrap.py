"""How sure a mean average precision is, and a difference of two: what random halves of the images give.

Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3 (the delete-d jackknife, d = n/2); Politis, Romano and Wolf,
Subsampling, 1999. A half differs from the whole by as much as the whole from the truth. The interpolated precision is a
maximum, so a mean average precision of few objects of a class is too high; images drawn with replacement show a third
of that only, since one that is drawn twice agrees with itself, halves show more. Of two versions on the same images
both are too high, and their difference is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import LIMIT, Annotations, Detections
from paretune.evaluation.detection_outcomes import outcomes_by_class
from paretune.evaluation.weighted_map import ranked, weighted_maps

DRAWS = 1000
METHOD = "random halves of the images, bias corrected"
_TOO_HIGH = 2.0
"""What the whole is too high by, in terms of what a half is above the whole: it falls by a third when the images are
doubled (50 to 12,000 images of 40 classes), as it does with the power -0.5 to -2/3 of their number (2.4 to 1.7)."""
_WIDER = 1.05
"""Factor by which the interval is wider than the halves' spread: what is taken off is not known exactly (simulated
worlds: the ends vary by 0 to 9 % more). The spread itself varies as that of a quarter of the images would, since few of
them hold a rare class: these are Student's degrees of freedom."""
MapInterval = tuple[float, float, float]
"""Lower end, figure, upper end."""


@dataclass(frozen=True)
class MapOfHalves:
    """The mean average precision of some detections, and what it is for halves of their images."""

    whole: NDArray[np.float64]
    """(IoUs,) of all images, each once; NaN where they hold no objects."""
    drawn: NDArray[np.float64]
    """(IoUs, D) of each half; NaN where it holds no objects."""
    images: int
    """Number of images of the whole."""


def draw(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    limit: int = LIMIT,
) -> MapOfHalves:
    """Return the mean average precision of detections, of all their images and of random halves of these.

    Matching is done once; a half only weighs its images. The same seed draws the same halves of as many images.

    Args:
        detections: of each image.
        annotations: of the same images, in the same order.
        num_classes: of the dataset.
        draws: how many halves, an even number; the other half of each is one of them.
        seed: of the halves.
        limit: most detections of a class in an image that count.
    """
    classes, images = ranked(outcomes_by_class(detections, annotations, num_classes, limit)), len(annotations)
    if not classes:
        return MapOfHalves(np.full(10, np.nan), np.full((10, draws), np.nan), images)
    random = np.random.default_rng(seed)
    weights = np.zeros((images, draws), np.float32)
    for pair in range(0, draws, 2):
        order = random.permutation(images)
        weights[order[: images // 2], pair] = weights[order[images // 2 :], pair + 1] = 1
    return MapOfHalves(weighted_maps(classes, np.ones((images, 1)))[:, 0], weighted_maps(classes, weights), images)


def map_interval(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    num_classes: int,
    *,
    draws: int = DRAWS,
    seed: int = 0,
    limit: int = LIMIT,
) -> MapInterval | None:
    """Return ``map`` with its 95 % interval (low, map, high): where that of all images of the kind lies.

    None where there are no objects.
    """
    return interval_of(draw(detections, annotations, num_classes, draws=draws, seed=seed, limit=limit))


def interval_of(drawn: MapOfHalves) -> MapInterval | None:
    """Return ``map`` with its 95 % interval from what ``draw`` returned."""
    ends = _interval(drawn.whole.mean(), drawn.drawn.mean(axis=0), drawn.images, lean=True)
    return None if ends is None else (max(ends[0], 0.0), ends[1], min(ends[2], 1.0))


def differences_of(first: MapOfHalves, second: MapOfHalves) -> dict[str, MapInterval | None]:
    """Return how much higher ``map`` and ``map50`` of the first are, with 95 % intervals (low, difference, high).

    Both are results of ``draw`` by the same seed on the same images: what makes an image hard is no part of their
    difference. None where there are no objects.
    """
    whole, drawn = first.whole - second.whole, first.drawn - second.drawn
    return {
        "map": _interval(whole.mean(), drawn.mean(axis=0), first.images),
        "map50": _interval(whole[0], drawn[0], first.images),
    }


def _interval(figure: float, halves: NDArray[np.float64], images: int, *, lean: bool = False) -> MapInterval | None:
    """Return a figure between the ends of its 95 % interval; None where it is not known.

    Args:
        figure: of all images.
        halves: (D,) the figure of each half.
        images: how many there are.
        lean: whether the figure is too high for few images, which is then taken off the ends.
    """
    from scipy.special import stdtrit  # Student's quantile; scipy.stats takes two seconds to import

    if np.isnan(figure):
        return None
    known = halves[~np.isnan(halves)]
    middle = figure - _TOO_HIGH * (known.mean() - figure) if lean else figure
    half = float(stdtrit(max(images / 4, 1.0), 0.975)) * known.std() * _WIDER
    return float(middle - half), float(figure), float(middle + half)
