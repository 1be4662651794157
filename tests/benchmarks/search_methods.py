"""The search methods that are replayed: the product's samplers, and others that it might have."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from search_rows import DEPLOY

from paretune.search.conditional_model import ConditionalModel, Modelled, Results
from paretune.search.conditional_points import Point
from paretune.search.conditional_sampler import ConditionalSampler
from paretune.search.samplers import SAMPLERS
from paretune.search.space import Space

Floats = NDArray[np.float64]
Method = Callable[[Space, int], BaseSampler]
STARTUP = 8
IN_BRANCH = 3
"""Trials of each deployment before the bandit chooses."""
TREES = 40


class Forest:
    """A random forest in place of a Gaussian process, as in SMAC (Hutter et al., LION 2011)."""

    def __init__(self, x: Floats, y: Floats, seed: int) -> None:
        from sklearn.ensemble import RandomForestRegressor

        forest: Any = RandomForestRegressor(TREES, min_samples_leaf=2, max_features=5 / 6, random_state=seed)
        self._trees, self.parameters = forest.fit(x, y).estimators_, np.zeros(0)

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Return mean and standard deviation over the trees."""
        every = np.stack([tree.predict(x) for tree in self._trees])
        return every.mean(axis=0), np.sqrt(every.var(axis=0) + 1e-4)

    def with_observations(self, x: Floats) -> Self:
        """Return the forest itself."""
        return self


class ForestSampler(ConditionalSampler):
    """The conditional sampler with random forests."""

    def process(self, name: str, x: Floats, target: Modelled) -> Any:
        """Return a fitted forest."""
        return Forest(x[target.rows], target.y, len(target.y))


class BranchSampler(ConditionalSampler):
    """A Gaussian process for each deployment, and a bandit that chooses the deployment (UCB1, Auer et al., 2002).

    The reward of a trial is whether no earlier one dominated it.
    """

    def propose(self, study: Study, fixed: Point) -> dict[str, Any]:
        """Return the next point, in the deployment of the highest upper bound."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        labels = [trial.params[DEPLOY] for trial in trials]
        branches = {self.points.draw()[DEPLOY] for _ in range(200)}
        if few := sorted(branch for branch in branches if labels.count(branch) < IN_BRANCH):
            branch = few[int(self.random.integers(len(few)))]
            return self.points.draw({**fixed, DEPLOY: branch})
        rewards = _rewards(study, trials)

        def bound(branch: str) -> float:
            own = [reward for reward, label in zip(rewards, labels, strict=True) if label == branch]
            return float(np.mean(own)) + float(np.sqrt(np.log(len(trials)) / (2 * len(own))))

        branch = max(sorted(branches), key=bound)
        own = [trial for trial in trials if trial.params[DEPLOY] == branch]
        complete, failed = ([t for t in own if t.state == state] for state in (TrialState.COMPLETE, TrialState.FAIL))
        if len(complete) < 2:
            return self.points.draw({**fixed, DEPLOY: branch})
        return self._best(
            ConditionalModel(self, study.directions, Results(complete, failed, [], [])), {**fixed, DEPLOY: branch}
        )

    def process(self, name: str, x: Floats, target: Modelled) -> Any:
        """Return a fitted process; nothing is kept for the next branch."""
        self._parameters.clear()
        return super().process(name, x, target)


def _rewards(study: Study, trials: Sequence[FrozenTrial]) -> list[float]:
    """Return 1 for each trial that no earlier one dominated, else 0."""
    signs = np.array([1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions])
    rewards, earlier = list[float](), list[Floats]()
    for trial in trials:
        feasible = trial.state == TrialState.COMPLETE and all(value <= 0 for value in trial.constraints.values())
        if not feasible:
            rewards.append(0.0)
            continue
        values = signs * np.array(trial.values)
        rewards.append(float(not any((other >= values).all() for other in earlier)))
        earlier.append(values)
    return rewards


def methods() -> dict[str, Method]:
    """Return the methods by name."""

    def row(name: str) -> Method:
        return lambda space, seed: SAMPLERS.load(name)().build_for(space, seed)

    def grouped(_: Space, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both arguments are experimental
            return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)

    found = {**{name: row(name) for name in SAMPLERS.names}, "tpe, group": grouped}
    found["script"] = lambda _, seed: TPESampler(seed=seed)  # the sampler of Ray's OptunaSearch
    found["branches"] = lambda space, seed: BranchSampler(space, seed, STARTUP)
    if importlib.util.find_spec("sklearn"):
        found["forest"] = lambda space, seed: ForestSampler(space, seed, STARTUP)
    return found
