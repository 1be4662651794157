"""Search methods replayed on a recorded table: every proposal is answered by the nearest row that is not taken yet.

Nearest rows keep real figures with their real noise, where a fitted surrogate would answer with its own smooth ones.
Every deployment of a network is recorded, so only networks are replaced by near ones. The sampler learns the
parameters of the row, not those that it proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from search_methods import Method
from search_rows import DEPLOY, Table, deployments, label_of

from paretune.search.conditional_points import ConditionalPoints
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.pareto_front import hypervolume_2d
from paretune.search.space import Space

DROP = 0.05
"""Constraint of the replayed job: ``map: {max_drop: 0.05}``."""
EXACT = 100.0
"""Weight of the deployment in the distance of rows."""


@dataclass(frozen=True)
class Answer:
    """A row of the pool."""

    params: dict[str, Any]
    map: float | None
    """None if the recipe failed."""
    cost: float
    """Latency in ms."""
    seconds: float
    """CPU seconds of the trial."""


@dataclass(frozen=True)
class Pool:
    """Everything that a replay can find."""

    space: Space
    answers: list[Answer]
    base: Answer
    """The eager baseline."""
    measured: bool
    """Whether costs are measured latencies; else they are CPU times of the network, taken while it was evaluated."""

    def hypervolume(self, answers: Sequence[Answer]) -> float:
        """Return the hypervolume of answers that meet the constraint: map against log(baseline's cost / cost)."""
        assert self.base.map is not None
        floor = self.base.map - DROP
        points = [(a.map, float(np.log(self.base.cost / a.cost))) for a in answers if a.map is not None]
        return hypervolume_2d(points, (floor, 0.0))

    @property
    def best(self) -> float:
        """Return the hypervolume of all rows."""
        return self.hypervolume(self.answers)


def pool_of(table: Table, space: Space) -> Pool:
    """Return the rows of a table at the last rung of each network."""
    rows = {row.key: row for row in table.rows}
    last = {
        number: max((row.rung for row in table.rows if row.network == number), default=0) for number in table.networks
    }
    measured = bool(table.latency) and all((row.network, label_of(row.deploy)) in table.latency for row in table.rows
                                           if row.rung == last[row.network] and row.failure is None)  # fmt: skip
    answers, base = list[Answer](), None
    for number, network in table.networks.items():
        for deploy in deployments(space):
            row = rows.get((number, last[number], label_of(deploy)))
            seconds = sum(network.seconds.values()) + (0.0 if row is None else sum(row.seconds.values()))
            cost = np.nan
            if row is not None and row.failure is None:
                taken = table.latency.get((number, label_of(deploy)), {})
                cost = taken["latency_ms"] if measured else row.metrics["network_cpu_ms"]
            quality = None if np.isnan(cost) or row is None else row.metrics.get("map")
            answers.append(Answer({**network.params, **deploy}, quality, float(cost), seconds))
            if number == 0 and label_of(deploy) == "eager-fp32":
                base = answers[-1]
    assert base is not None, "network 0 of a table is the uncompressed one"
    return Pool(space, answers, base, measured)


class _Asked:
    """Stands in for a trial: asks a sampler for values without storing them."""

    def __init__(self, sampler: BaseSampler, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self._sampler, self._study, self._trial = sampler, study, trial
        self._relative_space = sampler.infer_relative_search_space(study, trial)
        self._relative = sampler.sample_relative(study, trial, self._relative_space)
        self.params: dict[str, Any] = {}

    def _value(self, name: str, kind: BaseDistribution) -> Any:
        value = self._relative.get(name)
        if name not in self._relative or not kind._contains(kind.to_internal_repr(value)):
            value = self._sampler.sample_independent(self._study, self._trial, name, kind)
        self.params[name] = value
        return value

    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> Any:
        return self._value(name, IntDistribution(low, high, step=step, log=log))

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None, log: bool) -> Any:
        return self._value(name, FloatDistribution(low, high, step=step, log=log))

    def suggest_categorical(self, name: str, options: list[Any]) -> Any:
        return self._value(name, CategoricalDistribution(options))


class Replayed(BaseSampler):
    """A sampler whose proposals are moved to rows of a pool.

    Args:
        inner: the sampler that is judged.
        pool: of rows.
    """

    def __init__(self, inner: BaseSampler, pool: Pool) -> None:
        self._inner, self._pool = inner, pool
        self._points = ConditionalPoints(pool.space, np.random.default_rng(0))
        self._codes = self._weighted([answer.params for answer in pool.answers])
        self._free = np.ones(len(pool.answers), bool)
        self.rows: list[int] = []
        """Rows of the trials, in their order."""

    def _weighted(self, points: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
        deployed = [{name: value for name, value in point.items() if name.startswith(DEPLOY)} for point in points]
        codes = self._points.encoded(points)
        return np.concatenate([codes, EXACT * self._points.encoded(deployed)], axis=1)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, search_space: Any
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        if len(self.rows) <= trial.number:
            asked = _Asked(self._inner, study, trial)
            self._pool.space.sample(OptunaChooser(asked))  # type: ignore[arg-type]
            distance = ((self._codes - self._weighted([asked.params])) ** 2).sum(axis=1)
            distance[~self._free] = np.inf
            self.rows.append(int(distance.argmin()))
            self._free[self.rows[-1]] = False
        return self._pool.answers[self.rows[trial.number]].params[param_name]

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        self._inner.before_trial(study, trial)

    def after_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, state: Any, values: Any) -> None:
        self._inner.after_trial(study, trial, state, values)


@dataclass(frozen=True)
class Replay:
    """One replayed search."""

    hypervolume: list[float]
    """After each trial, as a share of the table's."""
    seconds: list[float]
    """CPU seconds of all trials until each trial."""
    proposing: list[float]
    """CPU seconds of each proposal."""


def replay(pool: Pool, method: Method, seed: int, trials: int) -> Replay:
    """Search a pool once."""
    import time

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = Replayed(method(pool.space, seed), pool)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    found, volumes, seconds, proposing = list[Answer](), list[float](), list[float](), list[float]()
    for _ in range(min(trials, len(pool.answers))):
        start = time.process_time()
        trial = study.ask()
        pool.space.sample(OptunaChooser(trial))
        proposing.append(time.process_time() - start)
        answer = pool.answers[sampler.rows[-1]]
        found.append(answer)
        if answer.map is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            assert pool.base.map is not None
            trial.set_constraint("map", pool.base.map - DROP - answer.map)
            study.tell(trial, [answer.map, answer.cost])
        volumes.append(pool.hypervolume(found) / pool.best)
        seconds.append(answer.seconds + (seconds[-1] if seconds else 0.0))
    return Replay(volumes, seconds, proposing)
