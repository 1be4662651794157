"""Search methods replayed on a recorded table: every proposal is answered by the nearest row that is not taken yet.

Nearest rows keep real figures with their real noise, where a fitted surrogate would answer with its own smooth ones.
Every deployment of a network is recorded, so only networks are replaced by near ones. The sampler learns the
parameters of the row, not those that it proposed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from search_methods import Method
from search_rows import DEPLOY, RUNGS, Network, Row, Table, deployments, label_of

from paretune.search.conditional_points import ConditionalPoints
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.pareto_front import hypervolume_2d
from paretune.search.space import Space

DROP = 0.05
"""Constraint of the replayed job: ``map: {max_drop: 0.05}``."""
VALIDATED = "onnxruntime"
"""Deployment whose figures stand for the validations of a fine-tuning: the network in float."""
EXACT = 100.0
"""Weight of the deployment in the distance of rows."""
FAR = 1e9
"""Added to the distance of rows that are taken; its square is added for each given value that a row lacks."""


@dataclass(frozen=True)
class Answer:
    """A row of the pool."""

    params: dict[str, Any]
    map: float | None
    """None if the recipe failed."""
    cost: float
    """Latency in ms."""
    seconds: float
    """CPU seconds of the trial if nothing of it is known."""
    network: int = -1
    """Number of the network in its table."""
    stages: Stages = field(default_factory=lambda: Stages({}, {}, {}))


@dataclass(frozen=True)
class Stages:
    """CPU seconds of a trial by stage, and what is known of it on the way."""

    network: Mapping[str, float]
    """Stage of the network → seconds; fine-tuning is ``finetune``."""
    deployment: Mapping[str, float]
    """Stage of the deployment → seconds."""
    rungs: Mapping[int, tuple[float, float]]
    """Epochs → (CPU seconds of fine-tuning until then and of a validation, map of the network in float)."""


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

    @cached_property
    def best(self) -> float:
        """The hypervolume of all rows."""
        return self.hypervolume(self.answers)

    @property
    def cost(self) -> str:
        """Return what the costs are, for what is printed."""
        return "measured" if self.measured else "not measured; CPU times of the networks in evaluation stand in"


def pool_of(table: Table, space: Space) -> Pool:
    """Return the rows of a table at each network's last rung; of the measured ones alone, once some are measured."""
    rows = {row.key: row for row in table.rows}
    last = {
        number: max((row.rung for row in table.rows if row.network == number), default=0) for number in table.networks
    }
    timed = {number for number, _ in table.latency}
    lost = {number for number, network in table.networks.items() if network.failure is not None}
    networks = {number: table.networks[number] for number in sorted(timed | lost)} if timed else table.networks
    answers, base = list[Answer](), None
    rungs = {number: _rungs(number, network, rows) for number, network in networks.items()}
    for number, network in networks.items():
        for deploy in deployments(space):
            row = rows.get((number, last[number], label_of(deploy)))
            seconds = sum(network.seconds.values()) + (0.0 if row is None else sum(row.seconds.values()))
            cost = np.nan
            if row is not None and row.failure is None:
                taken = table.latency.get((number, label_of(deploy)), {})
                cost = taken.get("latency_ms", np.nan) if timed else row.metrics["network_cpu_ms"]
            quality = None if np.isnan(cost) or row is None else row.metrics.get("map")
            stages = Stages(network.seconds, {} if row is None else row.seconds, rungs[number])
            answers.append(Answer({**network.params, **deploy}, quality, float(cost), seconds, number, stages))
            if number == 0 and label_of(deploy) == "eager-fp32":
                base = answers[-1]
    assert base is not None, "network 0 of a table is the uncompressed one"
    return Pool(space, answers, base, bool(timed))


def _rungs(number: int, network: Network, rows: Mapping[tuple[int, int, str], Row]) -> dict[int, tuple[float, float]]:
    """Return what is known of a network at the rungs of its fine-tuning, without the last one."""
    known = {}
    for rung in RUNGS[1:-1]:
        row = rows.get((number, rung, VALIDATED))
        if row is not None and row.failure is None and str(rung) in network.epochs:
            validating = row.seconds.get("evaluate", 0.0)
            known[rung] = network.epochs[str(rung)] + validating, row.metrics["map"]
    return known


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
        self.rows: dict[int, int] = {}
        """Number of the trial → its row."""

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
        if trial.number not in self.rows:
            asked = _Asked(self._inner, study, trial)
            self._pool.space.sample(OptunaChooser(asked))  # type: ignore[arg-type]
            fixed = trial.system_attrs.get("fixed_params", {})
            self.take(self.nearest({**asked.params, **fixed}, fixed), trial.number)
        return self._pool.answers[self.rows[trial.number]].params[param_name]

    def nearest(self, point: Mapping[str, Any], fixed: Mapping[str, Any]) -> int:
        """Return the nearest row that has some values exactly; one that is free, if there is any."""
        distance = ((self._codes - self._weighted([point])) ** 2).sum(axis=1)
        for name, value in fixed.items():
            same = np.array([answer.params.get(name) == value for answer in self._pool.answers])
            distance = np.where(same, distance, distance + FAR**2)
        distance = np.where(self._free, distance, distance + FAR)
        return int(distance.argmin())

    def take(self, row: int, trial: int | None = None) -> None:
        """Note that a row is a trial's; None is a trial that is not the study's."""
        self._free[row] = False
        if trial is not None:
            self.rows[trial] = row

    def sharing(self, inner: BaseSampler) -> Replayed:
        """Return another sampler whose proposals are moved to the same rows."""
        other = Replayed(inner, self._pool)
        other._free, other.rows = self._free, self.rows
        return other

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        fixed = trial.system_attrs.get("fixed_params", {})
        if fixed and self._points.is_complete(fixed):
            self.take(self.nearest(fixed, fixed), trial.number)
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


def replay(pool: Pool, method: Method, seed: int, trials: int, *, constrained: bool = True) -> Replay:
    """Search a pool once.

    Args:
        pool: of rows.
        method: that makes the sampler.
        seed: of it.
        trials: most trials.
        constrained: whether the sampler learns of the constraint.
    """
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
        answer = pool.answers[sampler.rows[trial.number]]
        found.append(answer)
        if answer.map is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            assert pool.base.map is not None
            if constrained:
                trial.set_constraint("map", pool.base.map - DROP - answer.map)
            study.tell(trial, [answer.map, answer.cost])
        volumes.append(pool.hypervolume(found) / pool.best)
        seconds.append(answer.seconds + (seconds[-1] if seconds else 0.0))
    return Replay(volumes, seconds, proposing)
