"""Rungs of a trial's fine-tuning: where it is validated, compared with the other trials, and perhaps paused."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.distributed.tune_schedulers import HalvingScheduler
from paretune.search.halving import Extrapolation, Halving, RungResult, best_first
from paretune.search.latency_scale import on_one_scale
from paretune.search.observations import SURE
from paretune.search.pareto_front import Objective, objectives_of, pareto_front
from paretune.storage.trial_events import Event, read_events
from paretune.storage.trial_record import EXPECTED, Record, read_records, record_file, trial_folder, write_record
from paretune.workflows.stages import Decision, PartialResult, TrialPaused


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
class ReachedRung:
    """A rung that a trial has reached."""

    trial: int
    rung: int
    """Number of the rung, from 0."""
    time: float
    """Seconds since 1970."""
    metrics: Mapping[str, float]
    """Measured at the rung, and expected ones such as ``expected_latency_ms``."""


def reached(folder: Path, scheduler: HalvingScheduler) -> list[ReachedRung]:
    """Return all rungs that the trials of a sweep have reached, in the order of time.

    Args:
        folder: of the sweep.
        scheduler: of the sweep.
    """
    found = []
    for place in trial_folder(folder, 0).parent.glob("*/"):
        if place.name.isdecimal():
            found += _reached_by(int(place.name), read_events(place), scheduler)
    return sorted(found, key=lambda rung: rung.time)


def _reached_by(trial: int, events: Sequence[Event], scheduler: HalvingScheduler) -> list[ReachedRung]:
    """Return the rungs in the events of one trial."""
    known: dict[str, float] = {}
    found = []
    for event in events:
        if event.kind == "metrics":
            known.update(event.metrics)
        if event.kind != "epoch" or event.epoch is None or event.epochs is None or "map" not in event.metrics:
            continue
        rungs = scheduler.rungs(event.epochs)
        if event.epoch in rungs:
            found.append(ReachedRung(trial, rungs.index(event.epoch), event.time, {**known, **event.metrics}))
    return found


def halving_of(folder: Path, job: Job, records: Sequence[Record]) -> tuple[Halving, dict[int, dict[str, float]]]:
    """Return the rungs of a sweep, rebuilt from the events of its trials, and trial → its expected objectives.

    Args:
        folder: of the sweep.
        job: whose scheduler is ``halving``.
        records: of the sweep, on one scale.
    """
    scheduler = job.search.scheduler
    assert isinstance(scheduler, HalvingScheduler)  # noqa: S101 - asked by the callers
    objectives = objectives_of(job.objectives)
    halving, expected = Halving(objectives, scheduler.eta), dict[int, dict[str, float]]()
    finals = {record.number: record for record in records}
    rungs = reached(folder, scheduler)
    lines = {
        rung: _extrapolation([one for one in rungs if one.rung == rung], finals) for rung in {r.rung for r in rungs}
    }
    for one in rungs:
        values = expected_objectives(one, lines[one.rung], objectives, finals.get(one.trial))
        expected[one.trial] = values
        halving.report(RungResult(one.trial, one.rung, values))
    for number in finals:
        halving.forget(number)
    return halving, expected


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


@dataclass
class Rungs:
    """Decides on the paused trials of a sweep whose scheduler is ``halving``."""

    folder: Path
    """Folder of the sweep."""
    job: Job

    def promotable(self, paused: Collection[int]) -> int | None:
        """Return the best paused trial that is by now among the best of its rung; None if there is none."""
        if not paused:
            return None
        halving, _ = self._state()
        for number in set(halving.paused) - set(paused):  # promoted already, and running
            halving.forget(number)
        return halving.promotable()

    def finalist(self, paused: Collection[int]) -> int | None:
        """Return the best paused trial that no complete trial dominates by what is expected; None if there is none."""
        records = on_one_scale(read_records(self.folder))
        _, expected = self._state(records)
        objectives = objectives_of(self.job.objectives)
        complete = [record.metrics for record in records if record.state == "complete"]
        numbers = [number for number in paused if number in expected]
        front = pareto_front([*complete, *(expected[number] for number in numbers)], objectives)
        hopeful = [numbers[index - len(complete)] for index in front if index >= len(complete)]
        order = best_first([expected[number] for number in hopeful], objectives)
        return hopeful[order[0]] if hopeful else None

    def expected(self, number: int) -> Mapping[str, float]:
        """Return what is expected of a paused trial at the end of its training, without what is unknown."""
        values = self._state()[1].get(number, {})
        return {name: value for name, value in values.items() if math.isfinite(value)}

    def stop(self, proposal: Mapping[str, Any]) -> Record:
        """Write and return the record of a paused trial, with the objectives that are expected of it."""
        number = proposal["number"]
        halving, expected = self._state()
        recipe = Recipe.model_validate(proposal["recipe"])
        known = {f"{EXPECTED}{metric}": value for metric, value in expected.get(number, {}).items()}
        last = [one for one in self._reached() if one.trial == number]
        metrics = {**(last[-1].metrics if last else {}), **known}
        place = f"rung {halving.paused.get(number, 0) + 1}"
        record = Record.stopped(
            number,
            recipe.tree(),
            recipe.params(),
            proposal["origin"],
            f"not among the best of {place} when the search ended",
            stage="finetune",
            metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
            facts={},
            started=min((event.time for event in read_events(trial_folder(self.folder, number))), default=time.time()),
            seconds=seconds_before(trial_folder(self.folder, number)),
        )
        write_record(self.folder, record)
        shutil.rmtree(trial_folder(self.folder, number) / "work", ignore_errors=True)
        return record

    def _state(self, records: Sequence[Record] | None = None) -> tuple[Halving, dict[int, dict[str, float]]]:
        return halving_of(self.folder, self.job, records or on_one_scale(read_records(self.folder)))

    def _reached(self) -> list[ReachedRung]:
        scheduler = self.job.search.scheduler
        return reached(self.folder, scheduler) if isinstance(scheduler, HalvingScheduler) else []


def decision(folder: Path, job: Job, number: int, *, drawn: bool) -> Decision:
    """Return the decision on a trial of a sweep whose scheduler is ``halving``.

    Args:
        folder: of the sweep.
        job: of the sweep.
        number: of the trial.
        drawn: whether the trial's recipe was drawn by the sampler; others always go on.
    """
    scheduler = job.search.scheduler

    def decide(result: PartialResult) -> None:
        if not drawn or result.epoch is None or "map" not in result.metrics:
            return
        if not isinstance(scheduler, HalvingScheduler):
            return
        halving, expected = halving_of(folder, job, on_one_scale(read_records(folder)))
        if number in halving.paused:
            shown = ", ".join(f"{metric} {expected[number][metric]:.3g}" for metric in job.objectives)
            raise TrialPaused(f"not among the best of rung {halving.paused[number] + 1} by {shown} at the end")

    return decide
