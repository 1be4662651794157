"""An Optuna sampler that models the whole conditional space: one Gaussian process for each objective and constraint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
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
from paretune.search.gaussian_process import GaussianProcess, fitted
from paretune.search.space import Space

Floats = NDArray[np.float64]
DRAWN = 800
"""Candidates that are drawn evenly."""
NEIGHBOURS = 300
"""Candidates near the front."""
ROUNDS = 4
"""Rounds of a local search that begins at the best candidates."""
BEST = 6
"""Candidates that a round continues with."""
CHANGES = 25
"""Neighbours of each of them."""
OFTEN = 60
"""Number of trials up to which the processes are fitted to convergence for each proposal."""
RARE = 4
"""Proposals from one fit to the next above that."""
FEW_STEPS = 15
"""Steps of the optimizer above that; it starts at the parameters of the last fit."""
TAIL = 3.0
"""Values are at most so many robust standard deviations worse than the median; those beyond are moved there."""


@dataclass
class _Target:
    """A value that is modelled."""

    y: Floats
    """(N,) standardised values."""
    rows: NDArray[np.int64]
    """(N,) trials that have one."""
    limit: float = 0.0
    """Standardised limit of a constraint."""


class ConditionalSampler(BaseSampler):
    """Proposes the candidate of the highest expected improvement among many points of the space.

    Two objectives are combined by the exact expected hypervolume improvement, more of them by random weights (ParEGO).
    The improvement is multiplied by the probability that the constraints are met, and that the trial does not fail.
    Running trials count as if they had the values that the model expects.

    Args:
        space: of the study's trials.
        seed: of the draws.
        startup: finished trials before the model is used.
    """

    def __init__(self, space: Space, seed: int, startup: int) -> None:
        self._random = np.random.default_rng(seed)
        self._points = ConditionalPoints(space, self._random)
        self._active = self._points.active
        self._startup = startup
        self._proposed: tuple[int, dict[str, Any]] | None = None
        """Number of the last trial, and its point."""
        self._parameters: dict[str, Floats] = {}
        """Parameters of the last fit of each process."""
        self._fits: dict[str, int] = {}
        """Number of trials of the last fit of each process."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Return no parameters: a trial's point is chosen when its first parameter is asked for."""
        return {}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return nothing, see ``infer_relative_search_space``."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the value of one parameter in the trial's point."""
        fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if self._proposed is None or self._proposed[0] != trial.number or param_name not in self._proposed[1]:
            self._proposed = trial.number, self.propose(study, fixed)
        point = self._proposed[1]
        if param_name in point:
            return point[param_name]
        return optuna.samplers.RandomSampler(seed=int(self._random.integers(2**31))).sample_independent(
            study, trial, param_name, param_distribution
        )

    def propose(self, study: Study, fixed: Point) -> dict[str, Any]:
        """Return the next point.

        Args:
            study: with the finished and running trials.
            fixed: values that are given.
        """
        trials = study.get_trials(deepcopy=False)
        complete = [t for t in trials if t.state == TrialState.COMPLETE and self._points.is_complete(t.params)]
        if len(complete) < self._startup:
            return self._points.draw(fixed)
        failed = [t for t in trials if t.state == TrialState.FAIL and self._points.is_complete(t.params)]
        running = [t for t in trials if t.state == TrialState.RUNNING and self._points.is_complete(t.params)]
        return self._best(_Model(self, study.directions, complete, failed, running), fixed)

    def _best(self, model: _Model, fixed: Point) -> dict[str, Any]:
        """Return the candidate of the highest improvement."""
        points = self._points
        known = {_key(code) for code in points.encoded([*model.known])}
        candidates = [points.draw(fixed) for _ in range(DRAWN)]
        front = model.front
        candidates += [
            points.changed(front[int(self._random.integers(len(front)))], fixed)
            for _ in range(NEIGHBOURS if front else 0)
        ]
        best, scores = list[dict[str, Any]](), np.zeros(0)
        for number in range(ROUNDS + 1):
            codes = points.encoded(candidates)
            new = self._new(codes, known)
            if new:
                best += [candidates[row] for row in new]
                scores = np.concatenate([scores, model.improvement(codes[new])])
                order = np.argsort(-scores, kind="stable")[:BEST]
                best, scores = [best[row] for row in order], scores[order]
            if number < ROUNDS:
                candidates = [points.changed(point, fixed) for point in best for _ in range(CHANGES)]
        return best[0] if best else points.draw(fixed)

    @staticmethod
    def _new(codes: Floats, known: set[bytes]) -> list[int]:
        """Return the rows of codes that are not known yet, and add them to the known ones."""
        rows = []
        for row, code in enumerate(codes):
            key = _key(code)
            if key not in known:
                known.add(key)
                rows.append(row)
        return rows

    def process(self, name: str, x: Floats, target: _Target) -> GaussianProcess:
        """Return a fitted process; between fits the parameters of the last one are kept."""
        last, count = self._parameters.get(name), len(target.y)
        often = count <= OFTEN
        steps = 40 if often else FEW_STEPS
        if last is not None and not often and count - self._fits[name] < RARE:
            steps = 0
        process = fitted(x[target.rows], target.y, self._active, None if often else last, steps)
        self._parameters[name] = process.parameters
        if steps:
            self._fits[name] = count
        return process

    @property
    def points(self) -> ConditionalPoints:
        """Return the points of the space."""
        return self._points

    @property
    def random(self) -> np.random.Generator:
        """Return the source of the draws."""
        return self._random


class _Model:
    """The processes of one proposal.

    Args:
        sampler: that keeps parameters from one proposal to the next.
        directions: of the objectives.
        complete: finished trials, at least one.
        failed: failed trials.
        running: trials without a result.
    """

    def __init__(
        self,
        sampler: ConditionalSampler,
        directions: Sequence[StudyDirection],
        complete: Sequence[FrozenTrial],
        failed: Sequence[FrozenTrial],
        running: Sequence[FrozenTrial],
    ) -> None:
        self.known: list[Point] = [trial.params for trial in (*complete, *failed, *running)]
        codes = sampler.points.encoded(self.known)
        count = len(complete)
        values, every = np.array([trial.values for trial in complete], np.float64), np.arange(count)
        pending = codes[count + len(failed) :]
        columns = [gains(values[:, place], direction) for place, direction in enumerate(directions)]
        self._weights = sampler.random.dirichlet(np.ones(len(columns)))
        self._objectives = [
            sampler.process(f"objective {place}", codes, _Target(column, every)).with_observations(pending)
            for place, column in enumerate(columns)
        ]
        limits = _constraints(complete)
        if failed:
            runs = np.array([*[-1.0] * count, *[1.0] * len(failed)])
            limits["failed"] = _standardised(runs, np.arange(count + len(failed)), 0.0)
        self._limits = [
            (sampler.process(f"constraint {name}", codes, target), target.limit) for name, target in limits.items()
        ]
        feasible = np.array([all(value <= 0 for value in trial.constraints.values()) for trial in complete])
        smooth = np.stack([process.predict(codes[:count])[0] for process in self._objectives], axis=1)
        self._smooth = smooth[feasible]
        rows = np.flatnonzero(feasible)[non_dominated(self._smooth)] if feasible.any() else np.zeros(0, np.int64)
        self.front: list[Point] = [complete[row].params for row in rows]
        """Points of the trials on the front."""

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


def gains(values: Floats, direction: StudyDirection) -> Floats:
    """Return objective values so that more is better, with mean 0 and variance 1.

    Costs above 0 that differ by more than a factor of two are compared by their logarithms. Values far worse than the
    median are moved nearer, because the model need not tell bad from very bad.
    """
    if direction == StudyDirection.MINIMIZE:
        ratio = values.max() / values.min() if values.min() > 0 else 1.0
        values = -np.log(values) if ratio > 2 else -values
    return _standard(_without_tail(values))[0]


def _without_tail(values: Floats) -> Floats:
    """Return values in which none is far below the median."""
    middle, high = np.quantile(values, [0.5, 0.84])
    spread = max(float(high - middle), 1e-9)
    moved: Floats = np.maximum(values, middle - TAIL * spread)
    return moved


def _standard(values: Floats) -> tuple[Floats, float, float]:
    mean, deviation = float(values.mean()), float(values.std()) or 1.0
    return (values - mean) / deviation, mean, deviation


def _standardised(values: Floats, rows: NDArray[np.int64], limit: float) -> _Target:
    scaled, mean, deviation = _standard(values)
    return _Target(scaled, rows, (limit - mean) / deviation)


def _constraints(trials: Sequence[FrozenTrial]) -> dict[str, _Target]:
    """Return the violations of each constraint, those far above 0 moved nearer."""
    names = dict.fromkeys(name for trial in trials for name in trial.constraints)
    found = {}
    for name in names:
        rows = np.array([row for row, trial in enumerate(trials) if name in trial.constraints])
        values = np.array([trials[row].constraints[name] for row in rows], np.float64)
        if (values > 0).any():
            found[name] = _standardised(-_without_tail(-values), rows, 0.0)
    return found


def _key(code: Floats) -> bytes:
    return np.round(code, 9).tobytes()
