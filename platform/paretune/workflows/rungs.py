"""Rungs of a trial's fine-tuning: where it is validated, compared with the other trials, and perhaps paused."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.distributed.tune_schedulers import HalvingScheduler
from paretune.search.halving import Extrapolation, Halving, RungResult, best_first
from paretune.search.observations import SURE
from paretune.search.pareto_front import Objective, objectives_of, pareto_front
from paretune.storage.trial_events import read_events
from paretune.storage.trial_record import EXPECTED, Record, record_file, trial_folder, write_record
from paretune.workflows.stages import Decision, PartialResult, TrialPaused
from paretune.workflows.sweep_state import ReachedRung, SweepState


def rungs_of(job: Job) -> Callable[[int], frozenset[int]]:
    """Return the function from a number of epochs to those after which a fine-tuning is validated."""
    scheduler = job.search.scheduler
    return lambda epochs: frozenset(scheduler.rungs(epochs))


def seconds_before(folder: Path) -> dict[str, float]:
    """Return stage → seconds that a trial took before it was paused, or before its process died."""
    seconds: dict[str, float] = {}
    for event in read_events(folder):
        if event.kind == "end" and event.seconds is not None:
            seconds[event.stage] = round(seconds.get(event.stage, 0.0) + event.seconds, 3)
    return seconds


def paused_trials(folder: Path) -> list[int]:
    """Return the trials of a sweep that are paused: they have no record, and their last event is the pause."""
    paused = []
    for place in trial_folder(folder, 0).parent.glob("*/"):
        if place.name.isdecimal() and not record_file(folder, int(place.name)).exists():
            events = read_events(place)
            if events and events[-1].kind == "paused":
                paused.append(int(place.name))
    return sorted(paused)


@dataclass(frozen=True)
class RungTable:
    """What the trials of a sweep have reached, and what is expected of them."""

    halving: Halving
    last: Mapping[int, ReachedRung]
    """Trial → the highest rung that it has reached."""
    expected: Mapping[int, Mapping[str, float]]
    """Trial → value of each objective that is expected at the end of its training."""


def rung_table(state: SweepState, job: Job, paused: Collection[int] = ()) -> RungTable:
    """Return the rungs of a sweep, rebuilt from the events of its trials.

    Args:
        state: of the sweep.
        job: whose scheduler is ``halving``.
        paused: trials that are paused now.
    """
    scheduler = job.search.scheduler
    assert isinstance(scheduler, HalvingScheduler)  # noqa: S101 - asked by the callers
    objectives, finals = objectives_of(job.objectives), {record.number: record for record in state.records()}
    halving, expected, rungs = Halving(objectives, scheduler.eta), dict[int, Mapping[str, float]](), state.rungs()
    lines = {
        rung: _extrapolation([one for one in rungs if one.rung == rung], finals) for rung in {r.rung for r in rungs}
    }
    last = {one.trial: one for one in sorted(rungs, key=lambda one: one.rung)}
    for one in rungs:
        values = expected_objectives(one, lines[one.rung], objectives, finals.get(one.trial))
        highest = last[one.trial] is one
        if highest:
            expected[one.trial] = values
        halving.note(RungResult(one.trial, one.rung, values), paused=highest and one.trial in paused)
    return RungTable(halving, last, expected)


def expected_objectives(
    rung: ReachedRung, line: Extrapolation, objectives: Sequence[Objective], record: Record | None
) -> dict[str, float]:
    """Return what the objectives of a trial are expected to be at the end of its training; NaN where it is unknown.

    The accuracy has its 95 % interval, ``map_low`` and ``map_high``, as far as trials that reached the end show it.
    A latency that was measured at the end holds from the start: it does not depend on weights.
    """
    values = {}
    for objective in objectives:
        metric = objective.metric
        if metric == "map":
            values[metric] = line.at_end(rung.metrics["map"])
            spread = SURE * line.deviation_at_end(rung.metrics["map"])
            if math.isfinite(spread):
                values |= {"map_low": values[metric] - spread, "map_high": values[metric] + spread}
        elif record is not None and metric in record.metrics:
            values[metric] = record.metrics[metric]
        else:
            values[metric] = rung.metrics.get(f"expected_{metric}", math.nan)
    return values


def _extrapolation(rungs: Sequence[ReachedRung], finals: Mapping[int, Record]) -> Extrapolation:
    """Return the line from map at a rung to map at the end, from the complete trials."""
    pairs = [
        (one.metrics["map"], finals[one.trial].metrics["map"])
        for one in rungs
        if one.trial in finals and "map" in finals[one.trial].metrics
    ]
    return Extrapolation.fit(pairs)


class Rungs:
    """Decides on the paused trials of a sweep whose scheduler is ``halving``.

    Args:
        folder: of the sweep.
        job: of the sweep.
    """

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job
        self._state = SweepState(folder, job.search.scheduler)

    def promotable(self, paused: Collection[int]) -> int | None:
        """Return the best paused trial that is by now among the best of its rung; None if there is none."""
        return rung_table(self._state, self._job, paused).halving.promotable() if paused else None

    def finalist(self, paused: Collection[int]) -> int | None:
        """Return the best paused trial that no complete trial dominates by what is expected; None if there is none."""
        expected = rung_table(self._state, self._job).expected
        objectives = objectives_of(self._job.objectives)
        complete = [record.metrics for record in self._state.records() if record.state == "complete"]
        numbers = [number for number in paused if number in expected]
        front = pareto_front([*complete, *(expected[number] for number in numbers)], objectives)
        hopeful = [numbers[index - len(complete)] for index in front if index >= len(complete)]
        order = best_first([expected[number] for number in hopeful], objectives)
        return hopeful[order[0]] if hopeful else None

    def expected(self, number: int) -> Mapping[str, float]:
        """Return what is expected of a paused trial at the end of its training, without what is unknown."""
        values = rung_table(self._state, self._job).expected.get(number, {})
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def stop(self, proposals: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
        """Write and yield the records of paused trials that do not go on, with the objectives that are expected."""
        table = rung_table(self._state, self._job)
        for proposal in proposals:
            yield self._stopped(proposal, table)

    def _stopped(self, proposal: Mapping[str, Any], table: RungTable) -> Record:
        """Write and return the record of one paused trial."""
        number, recipe = proposal["number"], Recipe.model_validate(proposal["recipe"])
        folder, last = trial_folder(self._folder, number), table.last.get(number)
        known = {f"{EXPECTED}{metric}": value for metric, value in table.expected.get(number, {}).items()}
        metrics = {**(last.metrics if last else {}), **known}
        record = Record.stopped(
            number,
            recipe.tree(),
            recipe.params(),
            proposal["origin"],
            f"not among the best of rung {last.rung + 1 if last else 1} when the search ended",
            stage="finetune",
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            facts={},
            started=min((event.time for event in read_events(folder)), default=time.time()),
            seconds=seconds_before(folder),
        )
        write_record(self._folder, record)
        shutil.rmtree(folder / "work", ignore_errors=True)
        return record


def decision(state: SweepState, job: Job, number: int, *, drawn: bool) -> Decision:
    """Return the decision on a trial of a sweep whose scheduler is ``halving``.

    Args:
        state: of the sweep.
        job: of the sweep.
        number: of the trial.
        drawn: whether the trial's recipe was drawn by the sampler; others always go on.
    """
    halves = drawn and isinstance(job.search.scheduler, HalvingScheduler)

    def decide(result: PartialResult) -> None:
        if not halves or result.epoch is None or "map" not in result.metrics:
            return
        table = rung_table(state, job)
        rung = table.last.get(number)
        if rung is not None and rung.epoch == result.epoch and not table.halving.goes_on(number, rung.rung):
            shown = ", ".join(f"{metric} {table.expected[number][metric]:.3g}" for metric in job.objectives)
            raise TrialPaused(f"not among the best of rung {rung.rung + 1} by {shown} at the end")

    return decide
