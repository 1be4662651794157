"""The Gaussian processes of one proposal: one for each objective and constraint, and one for failing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from paretune.search.conditional_points import ConditionalPoints, Point
from paretune.search.expected_improvement import (
    expected_hypervolume_improvement,
    expected_improvement,
    non_dominated,
    probability_of_at_most,
    reference_of,
    scalarised,
)
from paretune.search.gaussian_process import GaussianProcess
from paretune.search.observations import OBSERVED, Observation

Floats = NDArray[np.float64]
TAIL = 3.0
"""Values are at most so many robust standard deviations worse than the median; those beyond are moved there."""


@dataclass
class Modelled:
    """A value that is modelled."""

    y: Floats
    """(N,) standardised values."""
    rows: NDArray[np.int64]
    """(N,) trials that have one."""
    noise: Floats
    """(N,) known variance of each value, on the scale of ``y``."""
    limit: float = 0.0
    """Standardised limit of a constraint."""


@dataclass(frozen=True)
class Results:
    """The trials of a study by what is known of them."""

    complete: list[FrozenTrial]
    failed: list[FrozenTrial]
    """Trials whose recipe failed."""
    partial: list[FrozenTrial]
    """Trials that were stopped or are paused, and those without a result of their own: some values are known."""
    running: list[FrozenTrial]
    """Trials of which nothing is known yet."""

    @classmethod
    def of(cls, trials: Sequence[FrozenTrial]) -> Results:
        """Return the trials sorted by what is known of them.

        A trial with an expected result is partial, whatever its state: Optuna has a stopped trial as complete or as
        failed.
        """
        sorted_trials = cls([], [], [], [])
        for trial in trials:
            if OBSERVED in trial.user_attrs and trial.user_attrs[OBSERVED]["expected"]:
                sorted_trials.partial.append(trial)
            elif trial.state == TrialState.COMPLETE:
                sorted_trials.complete.append(trial)
            elif trial.state == TrialState.FAIL:
                sorted_trials.failed.append(trial)
            elif trial.state == TrialState.RUNNING:
                sorted_trials.running.append(trial)
        return sorted_trials

    @property
    def all(self) -> list[FrozenTrial]:
        """Return all trials in one order."""
        return [*self.complete, *self.failed, *self.partial, *self.running]


class Processes(Protocol):
    """Fits processes, and keeps their parameters from one proposal to the next."""

    @property
    def points(self) -> ConditionalPoints:
        """Return the points of the space."""

    @property
    def random(self) -> np.random.Generator:
        """Return the source of draws."""

    def process(self, name: str, x: Floats, target: Modelled) -> GaussianProcess:
        """Return a process that is fitted to a value.

        Args:
            name: of the value.
            x: (trials, D) codes of all trials.
            target: the value.
        """


class ConditionalModel:
    """The processes of one proposal.

    Args:
        processes: that fit.
        directions: of the objectives.
        results: of the trials, at least one of them complete.
    """

    def __init__(self, processes: Processes, directions: Sequence[StudyDirection], results: Results) -> None:
        trials = results.all
        self.known: list[Point] = [trial.params for trial in trials]
        codes = processes.points.encoded(self.known)
        observed = [_observation(trial, len(directions)) for trial in trials]
        self._weights = processes.random.dirichlet(np.ones(len(directions)))
        self._objectives = [
            self._objective(processes, place, direction, codes, trials, observed)
            for place, direction in enumerate(directions)
        ]
        limits = _constraints(trials, observed)
        if results.failed:
            count, failed = len(results.complete), len(results.failed)
            runs = np.array([*[-1.0] * count, *[1.0] * failed])
            limits["failed"] = _standardised(runs, np.arange(count + failed), np.zeros(count + failed))
        self._limits = [
            (processes.process(f"constraint {name}", codes, target), target.limit) for name, target in limits.items()
        ]
        complete = results.complete
        feasible = np.array([all(value <= 0 for value in trial.constraints.values()) for trial in complete])
        smooth = np.stack([process.predict(codes[: len(complete)])[0] for process in self._objectives], axis=1)
        self._smooth = smooth[feasible]
        rows = np.flatnonzero(feasible)[non_dominated(self._smooth)] if feasible.any() else np.zeros(0, np.int64)
        self.front: list[Point] = [complete[row].params for row in rows]
        """Points of the trials on the front."""

    @staticmethod
    def _objective(
        processes: Processes,
        place: int,
        direction: StudyDirection,
        codes: Floats,
        trials: Sequence[FrozenTrial],
        observed: Sequence[Observation],
    ) -> GaussianProcess:
        """Return the process of an objective, running trials included as what it expects of them."""
        known = [row for row, one in enumerate(observed) if one.values[place] is not None]
        values = np.array([observed[row].values[place] for row in known], np.float64)
        deviations = np.array([observed[row].deviations[place] for row in known], np.float64)
        y, noise = gains(values, direction, deviations)
        process = processes.process(f"objective {place}", codes, Modelled(y, np.array(known), noise))
        pending = [row for row, one in enumerate(trials) if one.state == TrialState.RUNNING and row not in set(known)]
        return process.with_observations(codes[pending])

    def improvement(self, codes: Floats) -> Floats:
        """Return the expected improvement of candidates (M,), by any scale."""
        chance = np.ones(len(codes))
        for process, limit in self._limits:
            chance *= probability_of_at_most(limit, *process.predict(codes))
        if not len(self._smooth):
            return chance
        predicted = [process.predict(codes) for process in self._objectives]
        mean, deviation = (np.stack([pair[part] for pair in predicted], axis=1) for part in (0, 1))
        if len(self._objectives) == 1:
            return chance * expected_improvement(float(self._smooth.max()), mean[:, 0], deviation[:, 0])
        if len(self._objectives) == 2:
            front = self._smooth[non_dominated(self._smooth)]
            return chance * expected_hypervolume_improvement(front, reference_of(front), mean, deviation)
        best = float(scalarised(self._smooth, self._weights).max())
        spread = np.sqrt(((self._weights * deviation) ** 2).sum(axis=1))
        return chance * expected_improvement(best, scalarised(mean, self._weights), spread)


def _observation(trial: FrozenTrial, objectives: int) -> Observation:
    """Return what is known of the objectives of a trial; without an observation these are Optuna's values, exactly."""
    unknown = (None,) * objectives
    if OBSERVED in trial.user_attrs:
        observed = Observation.read(trial.user_attrs[OBSERVED])
        return observed if observed.values else Observation(unknown, (0.0,) * objectives, {})
    values = tuple(trial.values) if trial.state == TrialState.COMPLETE else unknown
    return Observation(values, (0.0,) * objectives, {})


def gains(values: Floats, direction: StudyDirection, deviations: Floats) -> tuple[Floats, Floats]:
    """Return objective values so that more is better, with mean 0 and variance 1, and the variance of their noise.

    Costs above 0 that differ by more than a factor of two are compared by their logarithms. Values far worse than the
    median are moved nearer, because the model need not tell bad from very bad.

    Args:
        values: (N,) of the objective.
        direction: of the objective.
        deviations: (N,) standard deviations of the values; 0 where they are not known.
    """
    if direction == StudyDirection.MINIMIZE:
        ratio = values.max() / values.min() if values.min() > 0 else 1.0
        if ratio > 2:
            values, deviations = -np.log(values), deviations / values
        else:
            values = -values
    standard, _, scale = _standard(_without_tail(values))
    return standard, (deviations / scale) ** 2


def _without_tail(values: Floats) -> Floats:
    """Return values in which none is far below the median."""
    middle, high = np.quantile(values, [0.5, 0.84])
    spread = max(float(high - middle), 1e-9)
    moved: Floats = np.maximum(values, middle - TAIL * spread)
    return moved


def _standard(values: Floats) -> tuple[Floats, float, float]:
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    return (values - mean) / deviation, mean, deviation


def _standardised(values: Floats, rows: NDArray[np.int64], deviations: Floats) -> Modelled:
    """Return violations on the scale of a process, with the limit 0 on it."""
    scaled, mean, scale = _standard(values)
    return Modelled(scaled, rows, (deviations / scale) ** 2, -mean / scale)


def _constraints(trials: Sequence[FrozenTrial], observed: Sequence[Observation]) -> dict[str, Modelled]:
    """Return the violations of each constraint, those far above 0 moved nearer."""
    violations = [trial.constraints for trial in trials]
    modelled = {}
    for name in dict.fromkeys(name for one in violations for name in one):
        rows = np.array([row for row, one in enumerate(violations) if name in one])
        values = np.array([violations[row][name] for row in rows], np.float64)
        deviations = np.array([observed[row].limits.get(name, 0.0) for row in rows])
        if (values > 0).any():
            modelled[name] = _standardised(-_without_tail(-values), rows, deviations)
    return modelled
