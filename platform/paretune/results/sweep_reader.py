"""Reads the present state of a sweep from its folder, again and again, whoever runs it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from paretune.core.baselines import BASELINES, EAGER
from paretune.core.errors import UserError
from paretune.core.recipe_text import recipe_line
from paretune.reports.sweep_snapshot import (
    FailedTrial,
    RunningStage,
    RunningTrial,
    State,
    SweepSnapshot,
    TargetFront,
    Version,
)
from paretune.results.front_summary import comparison_of, front_of, judge_of, records_of
from paretune.results.search_budget import SearchBudget
from paretune.results.sweep_cost import SweepTimes, earlier_sweep, times_of
from paretune.results.sweep_folder import Sweep
from paretune.search.pareto_front import FrontRules
from paretune.search.progress import SweepProgress
from paretune.storage.target_records import on_target
from paretune.storage.trial_events import Event, StageProgress, read_events, read_progress
from paretune.storage.trial_record import Record, RecordReader, read_record, trial_folder
from paretune.system.file_lock import is_locked

MOST_OTHERS = 300
"""Most versions beside the front in a snapshot, the newest."""
LATER = "known after the first searched trial"


class SweepReader:
    """Reader of a sweep's folder; each record is read once, and the events of trials that run.

    Args:
        sweep: to read.
        now: returns seconds since 1970.
    """

    def __init__(self, sweep: Sweep, now: Callable[[], float] = time.time) -> None:
        self._sweep, self._now = sweep, now
        self._begin()

    def _begin(self) -> None:
        """Read all records anew."""
        self._reader = RecordReader(self._sweep.folder)
        self._records: dict[int, Record] = {}
        self._progress: list[tuple[Sweep, SweepProgress]] = []
        self._fronts: tuple[TargetFront, ...] = ()
        self._finished = False

    def look(self) -> SweepSnapshot:
        """Return the state of the sweep now.

        Raises:
            UserError: a record or the comparison is damaged.
        """
        finished = self._sweep.finished
        if self._finished != finished or any(self._ran_again(record) for record in self._records.values()):
            self._sweep = Sweep(self._sweep.runs, self._sweep.name)  # extended, or a baseline is run again
            self._begin()
        if (new := self._reader.new()) or not self._progress:
            self._add(new, finished=finished)
        now, events = self._now(), read_events(self._sweep.folder)
        run = _run_of(events, read_progress(self._sweep.folder))
        trials = self._unfinished(run.started if run is not None else None)
        locked = is_locked(self._sweep.folder / ".lock")
        stage = run.stage if run is not None and locked is not False else None
        state: State = "unknown" if locked is None else "running" if locked else "stopped"
        if finished and stage is None:
            state = "finished"
        running = tuple(trial for trial, _ in trials if trial is not None and locked is not False)
        records = self._records.values()
        left, source = self._left(stage, running, now) if state in ("running", "unknown") else (None, "it does not run")
        return SweepSnapshot(
            name=self._sweep.name,
            time=now,
            state=state,
            stage=stage,
            done=len(records),
            budget=self._sweep.job.search.trials,
            failed=sum(record.state == "failed" for record in records),
            stopped_early=sum(record.state == "stopped" for record in records),
            paused=sum(last == "paused" for _, last in trials),
            started=run.started if run is not None and locked is not False else None,
            seconds_left=left,
            left_from=source,
            running=running,
            failures=tuple(map(_failed, filter(lambda record: record.state == "failed", self._in_order()))),
            fronts=self._fronts,
            resume=self._sweep.command("resume"),
        )

    def _in_order(self) -> list[Record]:
        return [self._records[number] for number in sorted(self._records)]

    def _ran_again(self, record: Record) -> bool:
        """Return whether a baseline that failed was removed, to be run again."""
        failed = record.state == "failed" and record.number < len(BASELINES)
        return failed and read_record(self._sweep.folder, record.number) != record

    def _add(self, new: Sequence[Record], *, finished: bool) -> None:
        """Add new records and find the fronts again."""
        self._records |= {record.number: record for record in new}
        if not self._progress:
            views = self._sweep.each_target()
            self._progress = [(view, SweepProgress(judge_of(view), (), comparison_of(view))) for view in views]
        for view, progress in self._progress:
            for record in new:
                progress.add(on_target(record, view.further))
        fronts = (_decided(view) if finished else _front(view, progress) for view, progress in self._progress)
        self._fronts = tuple(fronts)
        self._finished = finished

    def _unfinished(self, since: float | None) -> list[tuple[RunningTrial | None, str]]:
        """Return the trials without a record: how they run, None if they do not, and the kind of their last event.

        Args:
            since: begin of the present run of the sweep; a trial that has done nothing since then does not run.
        """
        folder = trial_folder(self._sweep.folder, 0).parent
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - names alone
        numbers = sorted(int(name) for name in names if name.isdecimal() and int(name) not in self._records)
        found = list[tuple[RunningTrial | None, str]]()
        for number in numbers:
            place = trial_folder(self._sweep.folder, number)
            events = read_events(place)
            if (run := _run_of(events, read_progress(place))) is None:
                continue
            ended = events[-1].kind in ("paused", "died", "stopped")
            runs = not ended and (since is None or events[-1].time >= since)
            recipe = recipe_line(run.recipe) if run.recipe else ""
            found.append((RunningTrial(number, recipe, run.started, run.stage) if runs else None, events[-1].kind))
        return found

    @cached_property
    def _earlier(self) -> tuple[SweepTimes, str] | None:
        """The durations of an earlier sweep that is like this one, and its name; None if there is none."""
        try:
            earlier = earlier_sweep(self._sweep.runs, self._sweep.job)
            return None if earlier is None else (times_of(earlier, self._sweep.job), earlier.name)
        except UserError:  # a damaged file of the earlier sweep
            return None

    def _left(
        self, stage: RunningStage | None, running: Sequence[RunningTrial], now: float
    ) -> tuple[float | None, str]:
        """Return the expected seconds to the end, and what they rest on or why they are not known."""
        (_, progress), *_ = self._progress
        job, known = self._sweep.job, None if progress.sampled else self._earlier
        times, name = known or (None, "")
        here = stage.name if stage is not None else ""
        if here in ("compare", "log"):
            left = stage.seconds_left(now) if stage is not None else None
            return left, "at its speed so far" if left is not None else "the comparison has not said how far it is"
        if progress.sampled:
            each, source = progress.busy.seconds / progress.sampled, "from the trials so far, without the comparison"
        elif times is not None:
            each, source = times.trial.likely * times.overlap, f"from sweep {name}"
        else:
            return None, LATER
        baselines = sum(number not in self._records for number in range(len(BASELINES)))
        others = job.search.trials - len(self._records) - baselines
        under_way = sum(min(1.0, (now - trial.started) / each) for trial in running) if each else 0.0
        seconds = each * max(0.0, others + baselines - under_way)
        if job.search.hours is not None or job.search.device_hours is not None:
            seconds = min(seconds, SearchBudget(self._sweep, list(self._records.values())).seconds_left())
        if times is not None:
            seconds += times.comparison.likely
            if here in ("", "baseline"):
                rest = stage.seconds_left(now) if stage is not None else None
                seconds += times.training.likely if rest is None else rest
        return seconds, source


@dataclass(frozen=True)
class _Run:
    """What the events of one process say."""

    started: float
    recipe: Any
    stage: RunningStage | None


def _run_of(events: Sequence[Event], progress: StageProgress | None) -> _Run | None:
    """Return the last run of a trial or sweep; None if there are no events."""
    if not events:
        return None
    first = max((index for index, event in enumerate(events) if event.kind == "started"), default=0)
    open_stages = list[RunningStage]()
    for event in events[first:]:
        if event.kind == "begin":
            told = progress if progress and progress.stage == event.stage and progress.time >= event.time else None
            open_stages.append(RunningStage(event.stage, event.time, told))
        elif event.kind == "end" and open_stages:
            open_stages.pop()
    return _Run(events[first].time, events[first].recipe, open_stages[-1] if open_stages else None)


def _failed(record: Record) -> FailedTrial:
    reason = next(iter((record.failure or "").splitlines()), "unknown reason")
    return FailedTrial(record.number, recipe_line(record.recipe), reason)


def _version(record: Record, judge: FrontRules, eager: float | None) -> Version:
    """Return a complete trial with its figures.

    Args:
        record: of the trial, with its latency on the sweep's scale.
        judge: names the objectives.
        eager: latency of the eager baseline; None if it is not known.
    """
    latency = record.metrics.get("latency_ms")
    return Version(
        record.number,
        recipe_line(record.recipe),
        record.metrics.get(judge.quality.metric),
        record.metrics.get(judge.cost.metric),
        eager / latency if eager and latency else None,
    )


def _front(view: Sweep, progress: SweepProgress) -> TargetFront:
    """Return the front of a sweep that is not finished."""
    judge, eager = progress.judge, progress.eager_ms
    front = sorted(
        map(progress.record, progress.front), key=lambda record: (-judge.cost.gain(record.metrics), record.number)
    )
    others = [record for record in progress.complete(MOST_OTHERS) if record.number not in progress.front]
    return _target_front(view, judge, eager, front, others, front[0].number if front else None)


def _decided(view: Sweep) -> TargetFront:
    """Return the front of a finished sweep, as `paretune front` prints it."""
    records = records_of(view)
    front, judge = front_of(view, records), judge_of(view)
    of = {record.number: record for record in records if record.state == "complete"}
    numbers = [point["trial"] for point in front["front"]]
    best = front["best"]["trial"] if front["best"] else None  # the unchanged network may be best beside the front
    behind = [number for number in of if number not in numbers]
    others = [of[number] for number in behind[:-MOST_OTHERS] if number == best]
    others += [of[number] for number in behind[-MOST_OTHERS:]]
    eager = of[EAGER].metrics.get("latency_ms") if EAGER in of else None
    return _target_front(view, judge, eager, [of[number] for number in numbers], others, best)


def _target_front(
    view: Sweep,
    judge: FrontRules,
    eager: float | None,
    front: Sequence[Record],
    others: Sequence[Record],
    best: int | None,
) -> TargetFront:
    return TargetFront(
        target=view.job.target_name,
        quality=judge.quality.metric,
        cost=judge.cost.metric,
        versions=tuple(_version(record, judge, eager) for record in front),
        others=tuple(_version(record, judge, eager) for record in others),
        best=best,
        claim=judge.claim,
    )
