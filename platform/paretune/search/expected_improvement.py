"""Expected improvement of candidates: of the hypervolume of two objectives, or of one value.

Emmerich et al., Hypervolume-based expected improvement, CEC 2011; Jones et al., Efficient Global Optimization, 1998.
More is better in every value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]
BEYOND = 0.1
"""Distance of the reference point from the worst values of the front, as a share of the front's range."""


def non_dominated(values: Floats) -> NDArray[np.bool_]:
    """Return which rows (N, K) no other row dominates; of equal rows the first."""
    no_worse = (values[:, None, :] >= values[None, :, :]).all(axis=2)
    better = (values[:, None, :] > values[None, :, :]).any(axis=2)
    same = no_worse & ~better
    first = np.tril(same, -1).any(axis=1)
    beaten = np.asarray((no_worse & better).any(axis=0) | first, np.bool_)
    return ~beaten


def reference_of(front: Floats) -> Floats:
    """Return the reference point of a front (N, K): a little worse than its worst values."""
    low, high = front.min(axis=0), front.max(axis=0)
    point: Floats = low - BEYOND * np.maximum(high - low, 0.1)
    return point


def expected_hypervolume_improvement(front: Floats, reference: Floats, mean: Floats, deviation: Floats) -> Floats:
    """Return by how much each candidate is expected to enlarge the hypervolume of two objectives.

    The area above the front is cut into strips; in each, width and height of the improvement are independent.

    Args:
        front: (N, 2) non-dominated values above the reference point.
        reference: (2,) point from which the hypervolume is counted.
        mean: (M, 2) expected values of the candidates.
        deviation: (M, 2) standard deviations of them.

    Returns:
        (M,) expected improvements.
    """
    ordered = front[np.argsort(front[:, 0])]
    starts = np.concatenate([reference[:1], ordered[:, 0]])
    levels = np.concatenate([ordered[:, 1], reference[1:]])
    widths = _above(mean[:, :1], deviation[:, :1], starts[None, :])
    widths = widths - np.concatenate([widths[:, 1:], np.zeros((len(mean), 1))], axis=1)
    heights = _above(mean[:, 1:], deviation[:, 1:], levels[None, :])
    improvement: Floats = (widths * heights).sum(axis=1)
    return improvement


def expected_improvement(best: float, mean: Floats, deviation: Floats) -> Floats:
    """Return by how much each candidate (M,) is expected to exceed the best value."""
    return _above(mean, deviation, np.array(best))


def scalarised(values: Floats, weights: Floats) -> Floats:
    """Return augmented Chebyshev values (N,) of values (N, K), for more than two objectives.

    Knowles, ParEGO, IEEE TEC 2006.
    """
    weighted = values * weights
    combined: Floats = weighted.min(axis=1) + 0.05 * weighted.sum(axis=1)
    return combined


def probability_of_at_most(limit: float, mean: Floats, deviation: Floats) -> Floats:
    """Return the probability (M,) that a value does not exceed a limit."""
    probability: Floats = ndtr((limit - mean) / deviation)
    return probability


def _above(mean: Floats, deviation: Floats, limit: Floats) -> Floats:
    """Return the expectation of the part of a normal value above a limit."""
    z = (mean - limit) / deviation
    part: Floats = deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))
    return np.maximum(part, 0.0)
