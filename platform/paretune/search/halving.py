"""Multi-objective asynchronous successive halving: which partly trained versions are trained on.

Schmucker et al., Multi-objective Asynchronous Successive Halving (arXiv:2106.12639): of the trials that have reached a
rung, those in its best 1/eta go on, ordered by non-dominated rank, and within a rank so that the chosen ones lie far
apart (an epsilon-net). A trial that does not go on is paused, and may be promoted later, when more trials have reached
its rung. The state is rebuilt by reporting the results of the trials again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paretune.search.pareto_front import Objective

Answer = Literal["continue", "pause"]


@dataclass(frozen=True)
class RungResult:
    """What a trial is worth at a rung."""

    trial: int
    rung: int
    """Number of the rung, from 0."""
    metrics: Mapping[str, float]
    """Value of each objective: measured there, or expected."""


@dataclass
class Halving:
    """The rungs of a sweep."""

    objectives: Sequence[Objective]
    eta: int = 3
    """One in so many trials goes on from each rung."""
    _rungs: dict[int, dict[int, RungResult]] = field(default_factory=dict)
    _paused: dict[int, int] = field(default_factory=dict)
    """Paused trial → its rung."""

    def report(self, result: RungResult) -> Answer:
        """Note a trial's result at a rung, and return whether it goes on now or is paused.

        A trial goes on where fewer than ``eta`` trials have reached the rung: there is nothing to compare it with.
        """
        self.note(result)
        if self.goes_on(result.trial, result.rung):
            self._paused.pop(result.trial, None)
            return "continue"
        self._paused[result.trial] = result.rung
        return "pause"

    def note(self, result: RungResult, *, paused: bool = False) -> None:
        """Note a trial's result at a rung without a decision.

        Args:
            result: of the trial.
            paused: whether the trial was paused at this rung.
        """
        self._rungs.setdefault(result.rung, {})[result.trial] = result
        if paused:
            self._paused[result.trial] = result.rung

    def goes_on(self, trial: int, rung: int) -> bool:
        """Return whether a trial is among the best of a rung that it has reached, or too few have reached it."""
        return len(self._rungs[rung]) < self.eta or trial in self._best(rung)

    def promotable(self) -> int | None:
        """Return a paused trial that is by now among the best of its rung, of the highest rung first; None if none is.

        The trial stays paused until ``promote`` or ``forget`` is called.
        """
        for rung in sorted(set(self._paused.values()), reverse=True):
            for trial in self._best(rung):
                if self._paused.get(trial) == rung:
                    return trial
        return None

    def promote(self, trial: int) -> None:
        """Note that a paused trial goes on."""
        del self._paused[trial]

    def forget(self, trial: int) -> None:
        """Note that a trial has ended in another way, such as by failing; its results at rungs stay."""
        self._paused.pop(trial, None)

    @property
    def paused(self) -> Mapping[int, int]:
        """Return the paused trials, each with its rung."""
        return dict(self._paused)

    def _best(self, rung: int) -> list[int]:
        """Return the best 1/eta of a rung's trials, the best first."""
        results = list(self._rungs[rung].values())
        order = best_first([result.metrics for result in results], self.objectives)
        return [results[index].trial for index in order[: len(results) // self.eta]]


def best_first(points: Sequence[Mapping[str, float]], objectives: Sequence[Objective]) -> list[int]:
    """Return the indices of points by non-dominated rank, then so that chosen points lie far apart.

    Points with an unknown objective come last.
    """
    gains = [tuple(objective.gain(point) for objective in objectives) for point in points]
    known = [index for index, gain in enumerate(gains) if all(map(math.isfinite, gain))]
    unknown = sorted(set(range(len(points))) - set(known))
    if not known:
        return unknown
    scaled, order = _scaled(gains), list[int]()
    values = np.array([gains[index] for index in known], np.float64)
    no_worse = np.asarray((values[:, None] >= values[None]).all(axis=2))
    dominates = no_worse & ~no_worse.T
    above = np.asarray(dominates.sum(axis=0))
    """Number of points that dominate each point, of those that are left."""
    while len(order) < len(known):
        front = np.flatnonzero(above == 0)
        order += _epsilon_net([known[index] for index in front], scaled)
        above -= dominates[front].sum(axis=0)
        above[front] = -1
    return [*order, *unknown]


def _epsilon_net(front: Sequence[int], scaled: NDArray[np.float64]) -> list[int]:
    """Return a front's points, each the farthest from those before it; the first is the best in the first objective."""
    points = scaled[list(front)]
    order = [int(np.argmax(points[:, 0]))]
    distances = np.full(len(points), np.inf)
    while len(order) < len(points):
        distances = np.minimum(distances, np.linalg.norm(points - points[order[-1]], axis=1))
        distances[order] = -1.0
        order.append(int(np.argmax(distances)))
    return [front[index] for index in order]


def _scaled(gains: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Return gains (points, objectives) with the finite ones of each objective brought to 0 to 1."""
    values = np.array(gains, np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    scaled = np.zeros_like(values)
    for column in range(values.shape[1] if values.ndim > 1 else 0):
        known = values[:, column][~np.isnan(values[:, column])]
        spread = np.ptp(known) if len(known) else 0.0
        scaled[:, column] = np.nan_to_num((values[:, column] - known.min()) / spread) if spread else 0.0
    return scaled


@dataclass(frozen=True)
class Extrapolation:
    """Value of a metric at the end of a training, from its value at a rung.

    A line through the trials that reached both, drawn towards an unchanged value where there are few of them.
    """

    slope: float
    offset: float
    deviation: float
    """Standard deviation of the value at the end around the line; NaN with fewer than three trials."""
    count: int = 0
    """Number of trials that reached both."""
    centre: float = 0.0
    """Mean of their values at the rung."""
    precision: float = math.inf
    """Certainty of the slope: its variance is that of the values around the line, divided by this."""

    @classmethod
    def fit(cls, pairs: Sequence[tuple[float, float]], *, prior: float = 4.0) -> Extrapolation:
        """Return the extrapolation for one rung.

        Args:
            pairs: (value at the rung, value at the end) of trials.
            prior: number of trials that the prior belief counts as: the gain is the mean one, whatever the value.
        """
        if not pairs:
            return cls(1.0, 0.0, math.nan)
        at_rung, at_end = np.array(pairs, np.float64).T
        gain = float((at_end - at_rung).mean())
        centred = at_rung - at_rung.mean()
        spread = float(centred @ centred)
        weight = prior * (spread / len(pairs) if spread > 0 else 1.0)
        slope = float((centred @ (at_end - at_end.mean()) + weight) / (spread + weight))
        offset = float(at_rung.mean() + gain - slope * at_rung.mean())
        rest = at_end - (slope * at_rung + offset)
        deviation = math.sqrt(float(rest @ rest) / (len(pairs) - 2)) if len(pairs) > 2 else math.nan
        return cls(slope, offset, deviation, len(pairs), float(at_rung.mean()), spread + weight)

    def at_end(self, value: float) -> float:
        """Return the expected value at the end of the training."""
        return self.slope * value + self.offset

    def deviation_at_end(self, value: float) -> float:
        """Return the standard deviation of the value at the end; NaN with fewer than three trials.

        It holds what one trial differs from the line, and how surely the line is known there. The belief in an
        unchanged gain is a normal prior of the slope (Bishop, Pattern Recognition and Machine Learning, 2006, 3.3).
        """
        if not self.count:
            return math.nan
        line = 1 / self.count + (value - self.centre) ** 2 / self.precision
        return self.deviation * math.sqrt(1 + line)
