"""The search methods that are replayed: the product's samplers, and others that it might have."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler

from paretune.search.conditional_sampler import ConditionalSampler, _Target
from paretune.search.samplers import SAMPLERS
from paretune.search.space import Space

Floats = NDArray[np.float64]
Method = Callable[[Space, int], BaseSampler]
STARTUP = 8
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

    def process(self, name: str, x: Floats, target: _Target) -> Any:
        """Return a fitted forest."""
        return Forest(x[target.rows], target.y, len(target.y))


def methods() -> dict[str, Method]:
    """Return the methods by name."""

    def row(name: str) -> Method:
        return lambda space, seed: SAMPLERS.load(name)().build_for(space, seed)

    def grouped(_: Space, seed: int) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both arguments are experimental
            return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, group=True)

    found = {**{name: row(name) for name in SAMPLERS.names}, "tpe, group": grouped}
    if importlib.util.find_spec("sklearn"):
        found["forest"] = lambda space, seed: ForestSampler(space, seed, STARTUP)
    return found
