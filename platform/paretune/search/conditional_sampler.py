"""An Optuna sampler that models the whole conditional space: one Gaussian process for each objective and constraint."""

from __future__ import annotations

from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from paretune.search.conditional_model import ConditionalModel, Modelled, Results
from paretune.search.conditional_points import ConditionalPoints, Point
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


class ConditionalSampler(BaseSampler):
    """Proposes the candidate of the highest expected improvement among many points of the space.

    Two objectives are combined by the exact expected hypervolume improvement, more of them by random weights (ParEGO).
    The improvement is multiplied by the probability that the constraints are met, and that the trial does not fail.
    Each value counts by its own noise, as far as that is known. Of a trial that was stopped, or is paused, the values
    that are known enter. Other running trials count as if they had the values that the model expects.

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
        results = Results.of([trial for trial in trials if self._points.is_complete(trial.params)])
        if len(results.complete) < self._startup:
            return self._points.draw(fixed)
        return self._best(ConditionalModel(self, study.directions, results), fixed)

    def _best(self, model: ConditionalModel, fixed: Point) -> dict[str, Any]:
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

    def process(self, name: str, x: Floats, target: Modelled) -> GaussianProcess:
        """Return a fitted process; between fits the parameters of the last one are kept."""
        last, count = self._parameters.get(name), len(target.y)
        often = count <= OFTEN
        steps = 40 if often else FEW_STEPS
        if last is not None and not often and count - self._fits[name] < RARE:
            steps = 0
        process = fitted(x[target.rows], target.y, self._active, None if often else last, steps, target.noise)
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


def _key(code: Floats) -> bytes:
    return np.round(code, 9).tobytes()
