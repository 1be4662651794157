"""Drift of inference times during a measurement, from a device that heats up, a leak or a late warm-up.

Processes differ by chance by more than a device drifts, so samples are compared within each process: slopes of all
pairs (Theil-Sen) and the Kendall test over groups (Hirsch, Slack and Smith, Water Resources Research 18(1), 1982).
``scipy.stats`` has both for one group only, and the pairs of all processes are pooled here. Across processes only five
or more medians in one order count: by chance they are so once in 60 cases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 0.02
"""Smallest change that counts, as a share of the median."""
SURE = 2.576
"""Kendall's score, in standard deviations, that chance exceeds in 1 % of cases."""
SAMPLES = 30
"""Fewest samples of a process that is examined."""
PROCESSES = 5
"""Fewest processes whose order is examined."""
POINTS = 200
"""Most points of a process: more samples are replaced by medians of neighbours, as pairs grow with the square."""


@dataclass(frozen=True)
class LatencyDrift:
    """Changes of inference times as shares of the median: 0.02 is 2 % slower at the end."""

    slope: float
    """Theil-Sen slope within processes times the longest sampling time of a process."""
    thirds: float
    """Median of the last thirds of the processes over that of their first thirds, minus one."""
    score: float
    """Kendall's score in standard deviations."""
    across: float | None
    """Median of the last process over that of the first, minus one; None unless five or more are in one order."""

    @property
    def note(self) -> str | None:
        """Return a remark on the drift; None if nothing drifts."""
        within = min(abs(self.slope), abs(self.thirds)) > TOLERANCE and self.slope * self.thirds > 0
        changes = []
        if within and abs(self.score) > SURE:
            changes.append(
                f"by {self.slope:+.1%} within a process (its last third against its first {self.thirds:+.1%})"
            )
        if self.across is not None and abs(self.across) > TOLERANCE:
            changes.append(f"by {self.across:+.1%} from the first process to the last, each in turn")
        return f"drifting: times changed {' and '.join(changes)}" if changes else None

    def tree(self) -> dict[str, float | None]:
        """Return the drift as plain data."""
        return asdict(self)


def drift(starts: NDArray[np.int64], times: NDArray[np.float64], process: NDArray[np.int64]) -> LatencyDrift | str:
    """Return how times changed, or why that is not known.

    Args:
        starts: (N,) start of each inference in nanoseconds, rising within a process.
        times: (N,) duration of each inference in any unit.
        process: (N,) number of each inference's process, in their order.
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
        rise, run = _pairs(*_thinned(at, took))
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


def _thinned(at: NDArray[np.float64], took: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    parts = min(len(at), POINTS)
    return tuple(np.array([np.median(part) for part in np.array_split(values, parts)]) for values in (at, took))


def _pairs(at: NDArray[np.float64], took: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the differences of all pairs, later minus earlier: of durations, and of starts in seconds."""
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
