"""k-means of numbers: sorted once, every round costs next to nothing, and the same numbers give the same clusters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Floats

ROUNDS = 300
"""At most; most tensors settle sooner."""
_BINS = 64
"""Of the density: many would each hold one far value, and count it as much as the crowd."""


def clustered(values: Floats, count: int) -> Floats:
    """Return values of which at most ``count`` are different: each is the mean of its cluster.

    Lloyd's algorithm from three starts; the one with the smallest squared error is taken. Zeros stay zeros, and count
    as one of the values.

    Args:
        values: of any shape.
        count: 2 or more.
    """
    flat = values.ravel()
    if len(np.unique(flat)) <= count:
        return values.copy()
    rest = np.sort(flat[flat != 0]).astype(np.float64)
    count -= len(rest) < len(flat)
    centres = min((_settled(rest, start) for start in _starts(rest, count)), key=lambda found: _error(rest, found))
    made = _nearest(flat.astype(np.float64), centres).astype(values.dtype)
    made[flat == 0] = 0
    return made.reshape(values.shape)


def _starts(values: NDArray[np.float64], count: int) -> list[NDArray[np.float64]]:
    """Return even steps (the best of Han et al.'s, arXiv:1510.00149), quantiles, and what is best for many centres.

    The last are as dense as the cube root of the values' density (Panter and Dite, 1951): of 256 centres their error is
    less than half of the others'.
    """
    places = (np.arange(count) + 0.5) / count
    counts, edges = np.histogram(values, _BINS)
    shares = np.concatenate(([0.0], np.cumsum(np.cbrt(counts))))
    even = np.linspace(values[0], values[-1], count)
    return [even, np.quantile(values, places), np.interp(places * shares[-1], shares, edges)]


def _settled(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move sorted centres to the means of what is nearest to them, until they stay; one without any stays."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    for _ in range(ROUNDS):
        ends = np.concatenate(([0], np.searchsorted(values, _borders(centres)), [len(values)]))
        sizes = np.diff(ends)
        moved = np.where(sizes > 0, np.diff(sums[ends]) / np.maximum(sizes, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _borders(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return (centres[1:] + centres[:-1]) / 2


def _nearest(values: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    return centres[np.searchsorted(_borders(centres), values)]


def _error(values: NDArray[np.float64], centres: NDArray[np.float64]) -> float:
    return float(np.square(values - _nearest(values, centres)).sum())
