"""Whether inferences became slower or faster while they were measured: a device that heats up, a leak, a late warm-up.

Processes differ by chance by more than a device drifts, so samples are compared within each process: slopes of all
pairs (Theil-Sen) and the Kendall test over groups (Hirsch, Slack and Smith, Water Resources Research 18(1), 1982).
Across processes only five medians or more in one order tell something: by chance they are so once in 60.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.02
"""Changes below this share of the median are none."""
SURE = 2.576
"""Standard deviations of Kendall's score that chance exceeds in 1 % of cases."""
SAMPLES = 30
"""Fewest samples of a process that are looked at."""
PROCESSES = 5
"""Fewest processes whose order is looked at."""
POINTS = 200
"""Into so many neighbours' medians the samples of a process are drawn together at most: pairs grow with the square."""


@dataclass(frozen=True)
class LatencyDrift:
    """Changes as shares of the median: 0.02 is 2 % slower at the end."""

    slope: float
    """Theil-Sen slope within a process, times the seconds for which a process was sampled."""
    thirds: float
    """Median of the processes' last thirds over that of their first thirds, less one."""
    score: float
    """Kendall's, in standard deviations: what of the slope is more than chance."""
    across: float | None
    """From the first process's median to the last one's, less one; None unless five or more are in one order."""

    @property
    def note(self) -> str | None:
        """Say what a reader must know; None when nothing drifts."""
        within = min(abs(self.slope), abs(self.thirds)) > TOLERANCE and self.slope * self.thirds > 0
        said = []
        if within and abs(self.score) > SURE:
            said.append(f"by {self.slope:+.1%} within a process (its last third against its first {self.thirds:+.1%})")
        if self.across is not None and abs(self.across) > TOLERANCE:
            said.append(f"by {self.across:+.1%} from the first process to the last, each in turn")
        return f"drifting: times changed {' and '.join(said)}" if said else None

    def tree(self) -> dict[str, float | None]:
        """Return it as plain data."""
        return asdict(self)


def drift(starts: NDArray[np.int64], times: NDArray[np.float64], process: NDArray[np.int64]) -> LatencyDrift | str:
    """Return how times changed, or why that is not known.

    Args:
        starts: (N,) nanoseconds at which each inference began, of one clock, rising within a process.
        times: (N,) how long it took, in any unit.
        process: (N,) which process it comes from, numbered in their order.
    """
    groups = [(starts[process == one] / 1e9, times[process == one]) for one in np.unique(process)]
    whole = [(at, took / np.median(took)) for at, took in groups if len(at) >= SAMPLES and np.median(took) > 0]
    if not whole:
        most = max((len(at) for at, _ in groups), default=0)
        return f"{most} samples in a process, {SAMPLES} are needed"
    if not any(at[-1] > at[0] for at, _ in whole):
        return "all samples have one start time"
    slopes, score, variance = [], 0.0, 0.0
    for at, took in whole:
        rise, run = _pairs(*_drawn_together(at, took))
        slopes.append(rise[run > 0] / run[run > 0])
        score += float(np.sign(rise).sum())
        count = min(len(at), POINTS)
        variance += count * (count - 1) * (2 * count + 5) / 18
    first, last = (np.concatenate(parts) for parts in zip(*(_thirds(took) for _, took in whole), strict=True))
    return LatencyDrift(
        slope=float(np.median(np.concatenate(slopes)) * max(at[-1] - at[0] for at, _ in whole)),
        thirds=float(np.median(last) / np.median(first) - 1),
        score=float((score - np.sign(score)) / variance**0.5),
        across=_across([float(np.median(took)) for _, took in groups]),
    )


def _drawn_together(at: NDArray[np.float64], took: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    parts = min(len(at), POINTS)
    return tuple(np.array([np.median(part) for part in np.array_split(values, parts)]) for values in (at, took))


def _pairs(at: NDArray[np.float64], took: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the differences of all pairs, later less earlier: times, and seconds between."""
    before, after = np.triu_indices(len(at), 1)
    return took[after] - took[before], at[after] - at[before]


def _thirds(took: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    third = len(took) // 3
    return took[:third], took[-third:]


def _across(medians: list[float]) -> float | None:
    steps = np.sign(np.diff(medians))
    if len(medians) < PROCESSES or not steps.any() or (steps != steps[0]).any():
        return None
    return medians[-1] / medians[0] - 1
