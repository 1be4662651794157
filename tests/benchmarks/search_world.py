"""A whole search replayed on a recorded table: the product's study and searcher, with recorded stages for trials.

Store, siblings, the stop before a training, halving, first points and the sampler are the product's own; only what a
trial costs and gives is read from the table. Measuring latencies costs nothing here, since it is not recorded.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
from search_methods import Method
from search_replay import DROP, Answer, Pool, Replay, Replayed
from search_rows import recipe_of

from paretune.distributed.tune_searcher import StudySearcher
from paretune.search.early_stop import may_stop, stop_reason
from paretune.search.halving import Extrapolation, Halving, RungResult, best_first
from paretune.search.optuna_chooser import recipe_key
from paretune.search.pareto_front import FrontRules, objectives_of, pareto_front
from paretune.search.samplers import Sampler
from paretune.search.space import Space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_settings import StudySettings
from paretune.storage.trial_record import EXPECTED, Record

OBJECTIVES: dict[str, Any] = {"map": "maximize", "latency_ms": "minimize"}
SIBLINGS = 2


@dataclass(frozen=True)
class Ingredients:
    """What a search consists of."""

    sampler: str = "gp"
    """Method among ``search_methods.methods``."""
    store: bool = True
    cheap_first: bool = True
    siblings: bool = True
    halving: bool = True
    first: bool = True

    def without(self, name: str) -> Ingredients:
        """Return the search without one of them; without the sampler it draws at random."""
        return replace(self, **{name: "random" if name == "sampler" else False})


class _Moved(Sampler):
    """A sampler whose proposals are moved to rows of a pool."""

    name = "replayed"

    def build(self, seed: int) -> optuna.samplers.BaseSampler:
        """Return the sampler that was made before."""
        return self.__dict__["made"]  # type: ignore[no-any-return]


@dataclass
class World:
    """Trials whose stages are read from a table."""

    pool: Pool
    ingredients: Ingredients
    records: dict[int, Record] = field(default_factory=dict)
    spent: float = 0.0
    """CPU seconds so far."""
    trained: dict[int, float] = field(default_factory=dict)
    """Network → seconds of its fine-tuning that are paid and stored."""
    built: set[int] = field(default_factory=set)
    """Networks that are stored."""
    exported: set[int] = field(default_factory=set)
    rungs: list[tuple[int, int, float, Answer]] = field(default_factory=list)
    """(trial, number of the rung, map there, its answer), in the order of time."""
    passed: dict[int, int] = field(default_factory=dict)
    """Trial → rungs that it has passed."""
    done: list[Answer] = field(default_factory=list)
    """Answers of the complete trials."""
    _state: tuple[tuple[int, int], Halving, dict[int, dict[str, float]]] | None = None

    def __post_init__(self) -> None:
        self.rows = {recipe_key(recipe_of(self.pool.space, one.params)): one for one in self.pool.answers}
        self.rules = FrontRules(objectives_of(OBJECTIVES), lambda record: self.violations(record)["map"] <= 0)

    def violations(self, record: Record) -> dict[str, float]:
        """Return by how much a record breaks the constraint of the replayed job."""
        assert self.pool.base.map is not None
        return {"map": self.pool.base.map - DROP - record.metrics.get("map", -math.inf)}

    def answer(self, proposal: Mapping[str, Any]) -> Answer:
        """Return the row of a proposal."""
        return self.rows[recipe_key(proposal["recipe"])]

    def run(self, proposal: Mapping[str, Any]) -> str:
        """Run a trial, and return its state: ``complete``, ``failed``, ``stopped`` or ``paused``."""
        answer, drawn = self.answer(proposal), proposal["origin"] == "sampled"
        stages = answer.stages
        full = stages.network.get("finetune", 0.0)
        left = full - self.trained.get(answer.network, 0.0)
        stored = self.ingredients.store and answer.network in self.built
        if left and full and drawn and self.ingredients.cheap_first and self._stopped(proposal, answer):
            return "stopped"
        if not stored:
            self.spent += sum(stages.network.values()) - full
            if self.ingredients.store:
                self.built.add(answer.network)
        if not self.ingredients.store:
            left = full - self.trained.pop(answer.network, 0.0) if proposal["number"] in self.passed else full
        if left > 0 and self._trained(proposal, answer, left, drawn=drawn) == "paused":
            return "paused"
        return self._deployed(proposal, answer)

    def _stopped(self, proposal: Mapping[str, Any], answer: Answer) -> bool:
        """Time the untrained network, and return whether the trial was stopped."""
        records = list(self.records.values())
        if math.isnan(answer.cost) or not may_stop(records, {}) or proposal["number"] in self.passed:
            return False
        self.spent += sum(answer.stages.deployment.get(name, 0.0) for name in ("load", "export", "quantize"))
        reason = stop_reason({"latency_ms": answer.cost}, records, self.rules, {})
        if reason is None:
            return False
        known = {f"{EXPECTED}latency_ms": answer.cost}
        what = proposal["number"], proposal["recipe"], {}, proposal["origin"], reason
        self._add(Record.stopped(*what, stage="structure", metrics=known, facts={}, started=0.0))
        return True

    def _trained(self, proposal: Mapping[str, Any], answer: Answer, left: float, *, drawn: bool) -> str | None:
        """Pay for a training, and return ``paused`` where it is paused at a rung."""
        number, full = proposal["number"], answer.stages.network["finetune"]
        if drawn and self.ingredients.halving:
            for rung, (_, (seconds, quality)) in enumerate(sorted(answer.stages.rungs.items())):
                if rung < self.passed.get(number, 0):
                    continue
                self.passed[number] = rung + 1
                self.spent += max(0.0, seconds - (full - left))
                left = min(left, full - seconds)
                self.trained[answer.network] = full - left
                self.rungs.append((number, rung, quality, answer))
                if number in self.state()[0].paused:
                    return "paused"
        self.spent += max(0.0, left)
        self.trained[answer.network] = full
        return None

    def _deployed(self, proposal: Mapping[str, Any], answer: Answer) -> str:
        """Pay for a deployment, and return ``complete`` or ``failed``."""
        for name, seconds in answer.stages.deployment.items():
            if not (name == "export" and self.ingredients.store and answer.network in self.exported):
                self.spent += seconds
        self.exported.add(answer.network)
        what = proposal["number"], proposal["recipe"], {}, proposal["origin"]
        if answer.map is None:
            self._add(Record.failed(*what, "recorded as failed"))
            return "failed"
        self.done.append(answer)
        metrics = {"map": answer.map, "latency_ms": answer.cost}
        self._add(Record.complete(*what, metrics=metrics, reasons={}, notes=(), artefact="a", started=0.0))
        return "complete"

    def _add(self, record: Record) -> None:
        self.records[record.number] = record

    def state(self) -> tuple[Halving, dict[int, dict[str, float]]]:
        """Return the rungs, rebuilt from what trials reached, and trial → what is expected of it at the end."""
        version = len(self.rungs), len(self.records)
        if self._state is None or self._state[0] != version:
            self._state = version, *self._rebuilt()
        return copy.deepcopy(self._state[1]), self._state[2]

    def _rebuilt(self) -> tuple[Halving, dict[int, dict[str, float]]]:
        halving, values = Halving(objectives_of(OBJECTIVES)), dict[int, dict[str, float]]()
        finals = {number: one for number, one in self.records.items() if one.state == "complete"}
        lines = {
            number: Extrapolation.fit(
                [(q, finals[t].metrics["map"]) for t, rung, q, _ in self.rungs if rung == number and t in finals]
            )
            for number in {rung for _, rung, _, _ in self.rungs}
        }
        for trial, rung, quality, answer in self.rungs:
            line = lines[rung]
            spread = 1.96 * line.deviation_at_end(quality)
            expected = {"map": line.at_end(quality), "latency_ms": answer.cost}
            if math.isfinite(spread):
                expected |= {"map_low": expected["map"] - spread, "map_high": expected["map"] + spread}
            values[trial] = expected
            halving.report(RungResult(trial, rung, expected))
        for number in self.records:
            halving.forget(number)
        return halving, values

    def promotable(self, paused: Collection[int]) -> int | None:
        """Return the best paused trial that is by now among the best of its rung; None if there is none."""
        if not paused:
            return None
        halving, _ = self.state()
        for number in set(halving.paused) - set(paused):
            halving.forget(number)
        return halving.promotable()

    def finalist(self, paused: Collection[int]) -> int | None:
        """Return a paused trial that may reach the front; None if there is none."""
        _, expected = self.state()
        complete = [one.metrics for one in self.records.values() if one.state == "complete"]
        numbers = [number for number in paused if number in expected]
        objectives = objectives_of(OBJECTIVES)
        front = pareto_front([*complete, *(expected[number] for number in numbers)], objectives)
        hopeful = [numbers[index - len(complete)] for index in front if index >= len(complete)]
        order = best_first([expected[number] for number in hopeful], objectives)
        return hopeful[order[0]] if hopeful else None

    def expected(self, number: int) -> Mapping[str, float]:
        """Return what is expected of a paused trial."""
        return self.state()[1].get(number, {})

    def stop(self, proposals: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
        """Yield the records of paused trials that do not go on."""
        for proposal in proposals:
            yield self._ended(proposal)

    def _ended(self, proposal: Mapping[str, Any]) -> Record:
        """Return the record of a paused trial that does not go on."""
        known = {f"{EXPECTED}{name}": value for name, value in self.expected(proposal["number"]).items()}
        what = proposal["number"], proposal["recipe"], {}, proposal["origin"], "not among the best"
        record = Record.stopped(*what, stage="finetune", metrics=known, facts={}, started=0.0)
        self._add(record)
        return record


class NoFile:
    """A study's file that is not written."""

    damaged = False

    def __init__(self, database: StudyDatabase, directions: Mapping[str, str]) -> None:
        """Keep nothing."""

    def load_into(self, study: optuna.Study) -> None:
        """Load nothing."""

    def changed(self, trial_id: int) -> None:
        """Write nothing."""

    proposed = changed

    def close(self) -> None:
        """Close nothing."""


def trains(raw: Mapping[str, Any]) -> bool:
    """Return whether a recipe trains."""
    return any("finetune" in step for step in raw.get("steps", ()) if isinstance(step, Mapping))


def whole_search(
    pool: Pool, ingredients: Ingredients, method: Method, seed: int, trials: int, limit: float = math.inf
) -> Replay:
    """Replay a search with some ingredients once.

    Args:
        pool: of rows.
        ingredients: of the search.
        method: that makes the sampler.
        seed: of it.
        trials: most trials, the two baselines included.
        limit: CPU seconds after which no further trial starts; what is paused then stays so.
    """
    import time

    world, moved = World(pool, ingredients), _Moved()
    space = pool.space if ingredients.first else Space(pool.space.root, pool.space.file)
    sampler = Replayed(method(space, seed), pool)
    moved.__dict__["made"] = sampler
    eager, other = (
        next(row for row, one in enumerate(pool.answers) if one.network == 0 and one.params["deploy"] == name)
        for name in ("eager", "onnxruntime")
    )
    fixed = [(recipe_of(space, pool.answers[row].params), "baseline") for row in (eager, other)]
    for row in (eager, other):
        sampler.take(row)
    settings = StudySettings(
        space=space,
        objectives=OBJECTIVES,
        violations=world.violations,
        sampler=moved,
        seed=seed,
        normal=lambda raw: raw,
        fixed=fixed,
        siblings=SIBLINGS if ingredients.siblings and ingredients.store else 0,
        trains=trains,
    )
    volumes, seconds, proposing = list[float](), list[float](), list[float]()
    with mock.patch("paretune.search.study.StudyFile", NoFile):
        study = Study(StudyDatabase(Path("none"), "replay"), settings, ())
        study._even = sampler.sharing(study._even)  # type: ignore[assignment]
        searcher = StudySearcher(
            study, lambda one: world.records.get(one["number"]), lambda _: None, count=trials, rungs=world
        )
        for turn in range(100 * trials):
            if world.spent >= limit:
                break
            start = time.process_time()
            proposal = searcher.suggest(str(turn))
            proposing.append(time.process_time() - start)
            if proposal == searcher.FINISHED or not isinstance(proposal, dict):
                break
            state = world.run(proposal)
            searcher.on_trial_complete(str(turn), {"state": state, "number": proposal["number"]})
            volumes.append(pool.hypervolume(world.done) / pool.best)
            seconds.append(world.spent)
        study.close()
    return Replay(volumes, seconds, proposing)
