"""Estimate of the time and the cost of a sweep, before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from paretune.config.job import AUTO, Job
from paretune.config.output_folder import SWEEP_FILE
from paretune.core.counts import counted
from paretune.core.errors import UserError
from paretune.reports.tables import Table
from paretune.results.front_summary import comparison_of
from paretune.results.search_budget import HOUR, budget_text, busy_seconds, device_seconds
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import Record, read_records
from paretune.training.history import read_history

SURE = 1.96
"""Standard deviations on each side of the mean that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Span:
    """A number of seconds that is not known exactly."""

    low: float
    likely: float
    high: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def times(self, factor: float) -> Span:
        """Return all three numbers times a factor."""
        return Span(self.low * factor, self.likely * factor, self.high * factor)

    def at_most(self, seconds: float) -> Span:
        """Return all three numbers, none above a limit."""
        return Span(*(min(seconds, value) for value in (self.low, self.likely, self.high)))

    def __str__(self) -> str:
        return f"about {duration(self.likely)} ({duration(self.low)} to {duration(self.high)})"


NOTHING = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class PlannedTrials:
    """Number of trials of a sweep by where their recipes come from."""

    baselines: int
    first: int
    """Recipes of ``search.first``."""
    enqueued: int
    """First points of the search space."""
    sampled: int

    @property
    def others(self) -> int:
        """Return the number of trials without the baselines."""
        return self.first + self.enqueued + self.sampled


@dataclass(frozen=True)
class SweepTimes:
    """Durations that the cost of a sweep follows from."""

    source: str
    """Description of what the durations were taken from."""
    training: Span
    """Training of the baseline."""
    baseline: Span
    """One trial of a baseline."""
    trial: Span
    """Mean of the other trials."""
    spread: float
    """Standard deviation of the seconds of one of the other trials."""
    comparison: Span
    """Comparison of the front."""
    overlap: float = 1.0
    """Seconds on the clock for each second of trials; below 1 where trials run at the same time."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Stage of a trial → mean seconds."""
    notes: tuple[str, ...] = ()
    """What makes the durations less certain."""


@dataclass(frozen=True)
class SweepEstimate:
    """Trials, time and cost of a sweep that has not run."""

    trials: PlannedTrials
    times: SweepTimes
    parts: Mapping[str, Span]
    """Part of the sweep → seconds on the clock."""
    device: Span
    """Seconds of all trials together, times the GPUs of a trial."""

    @property
    def total(self) -> Span:
        """Return the seconds of the whole sweep on the clock."""
        return sum(self.parts.values(), NOTHING)

    def tree(self) -> dict[str, Any]:
        """Return the estimate as plain data, in seconds."""
        return {**asdict(self), "total": asdict(self.total)}


def duration(seconds: float) -> str:
    """Return seconds as text in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / HOUR:.1f} h"


def estimate(job: Job, trials: PlannedTrials, times: SweepTimes) -> SweepEstimate:
    """Return the estimate for a job from known durations.

    Limits of the search in hours cut the seconds of its trials; when a front becomes flat is not foreseen.
    """
    search = times.baseline.times(trials.baselines) + times.trial.times(trials.others)
    spread = SURE * times.spread * math.sqrt(trials.others)
    search = Span(max(0.0, search.low - spread), search.likely, search.high + spread)
    factor = job.resources.gpu or 1
    if job.search.device_hours is not None:
        search = search.at_most(job.search.device_hours * HOUR / factor)
    if job.search.hours is not None:
        search = search.at_most(job.search.hours * HOUR / times.overlap)
    on_the_clock = search.times(times.overlap)
    parts = {"training of the baseline": times.training, "trials": on_the_clock, "comparison": times.comparison}
    return SweepEstimate(trials, times, parts, search.times(factor))


def earlier_sweep(runs: Path, job: Job) -> Sweep | None:
    """Return the sweep of an output folder with the job's dataset, detector, sizes and target, and the most trials.

    Sweeps without a complete trial beside the baselines, and those that cannot be read, do not count.
    """
    candidates: list[tuple[int, float, str]] = []
    for file in runs.glob(f"*/{SWEEP_FILE}"):
        sweep = Sweep(runs, file.parent.name)
        try:
            done = sum(r.state == "complete" and r.origin != "baseline" for r in read_records(sweep.folder))
            if done and _alike(sweep.job, job):
                candidates.append((done, sweep.facts["created"], sweep.name))
        except (UserError, OSError, KeyError, TypeError, ValueError):
            continue
    return Sweep(runs, max(candidates)[-1]) if candidates else None


def _alike(one: Job, other: Job) -> bool:
    """Return whether the durations of one job hold for another: same dataset, detector, sizes and target."""
    same = one.dataset.tree() == other.dataset.tree() and one.detector.tree() == other.detector.tree()
    sized = AUTO in (one.input_size, other.input_size) or one.size == other.size
    targets = ([target.tree() for target in job.targets.values()] for job in (one, other))
    return same and sized and next(targets) == next(targets)


def times_of(sweep: Sweep, job: Job) -> SweepTimes:
    """Return the durations of a sweep on disk, for a job with its dataset, detector, sizes and target."""
    records = read_records(sweep.folder)
    base = [_seconds(r) for r in records if r.origin == "baseline" and r.state == "complete"]
    others = [record for record in records if record.origin != "baseline"]
    known = [_seconds(record) for record in others]
    spread = stdev(known) if len(known) > 1 else known[0] / 2
    sure = SURE * spread / math.sqrt(len(known))
    middle = mean(known)
    trial = Span(max(0.0, middle - sure), middle, middle + sure)
    first = mean(base) if base else middle
    total = device_seconds(records)
    overlap = busy_seconds(records) / total if job.search.concurrent == sweep.job.search.concurrent and total else 1.0
    return SweepTimes(
        source=f"sweep {sweep.name!r} with the same dataset, detector, input size and target: "
        f"{counted(len(records), 'trial')}",
        training=_training(sweep, job),
        baseline=Span(first * 0.8, first, first * 1.25),
        trial=trial,
        spread=spread,
        comparison=_comparison(sweep, records),
        overlap=overlap,
        stages=_stages(others),
        notes=_differences(sweep, job),
    )


def _seconds(record: Record) -> float:
    return sum(record.seconds.values())


def _stages(records: Sequence[Record]) -> dict[str, float]:
    """Return stage → mean seconds over the trials that had it."""
    names = dict.fromkeys(name for record in records for name in record.seconds)
    return {name: mean(r.seconds[name] for r in records if name in r.seconds) for name in names}


def _training(sweep: Sweep, job: Job) -> Span:
    """Return the seconds of the training of a job's baseline at the speed of a sweep's."""
    if job.baseline is not None:
        return NOTHING
    epochs = read_history(sweep.baseline).get("epochs") or []
    seconds = [float(epoch["seconds"]) for epoch in epochs if "seconds" in epoch]
    if not seconds:
        return NOTHING
    whole = mean(seconds) * job.training.epochs if not job.training.auto else sum(seconds)
    return Span(whole * 0.8, whole, whole * 1.25)


def _comparison(sweep: Sweep, records: Sequence[Record]) -> Span:
    """Return the seconds from the end of the last trial to that of the comparison of the front."""
    ends = [(comparison_of(view) or {}).get("ended") for view in sweep.each_target()]
    ended = max((end for end in ends if end is not None), default=None)
    seconds = 0.0 if ended is None else ended - max(record.finished for record in records)
    return Span(seconds * 0.5, seconds, seconds * 2) if seconds > 0 else NOTHING


def _differences(sweep: Sweep, job: Job) -> tuple[str, ...]:
    """Return a line for each difference between two jobs that changes durations."""
    notes = []
    if sweep.job.training.tree() != job.training.tree():
        notes.append("its training settings differ from this job's")
    if sweep.job.measuring.tree() != job.measuring.tree():
        notes.append("its measuring settings differ from this job's")
    if sweep.job.search.concurrent != job.search.concurrent:
        notes.append(f"it ran {sweep.job.search.concurrent} trials at a time, this job {job.search.concurrent}")
    if comparison_of(sweep) is None:
        notes.append("its front was not compared yet, so the comparison is not in the estimate")
    return tuple(notes)


def estimate_text(job: Job, name: str, expected: SweepEstimate, price: float | None = None) -> str:
    """Return an estimate as text.

    Args:
        job: of the sweep.
        name: of the sweep.
        expected: its estimate.
        price: of an hour of the machine, in any currency; None prints no price.
    """
    trials, times = expected.trials, expected.times
    what = f"training for {counted(job.training.epochs, 'epoch')} at {job.size}"
    if job.training.auto:
        what = "training with settings chosen at its start"
    stages = ", ".join(name if not seconds else f"{name} {seconds:.3g} s" for name, seconds in times.stages.items())
    table = Table(
        "", ("part", "time"), tuple((part, str(span)) for part, span in expected.parts.items()), words=("time",)
    )
    first = f"{counted(trials.baselines, 'baseline')}, {counted(trials.first, 'recipe')} of search.first, "
    first += counted(trials.enqueued, "first point")
    device = [value / HOUR for value in (expected.device.likely, expected.device.low, expected.device.high)]
    lines = [
        f"sweep {name} would run {budget_text(job.search)}:",
        f"  baseline: {what if job.baseline is None else job.baseline}",
        f"  {first} of the space, {trials.sampled} drawn by {job.search.sampler.name}",
        f"  stages of a trial: {stages}",
        f"estimated from {times.source}",
        *(f"  less certain: {note}" for note in times.notes),
        table.text(),
        "in all {}; trials: {:.2f} device hours ({:.2f} to {:.2f})".format(expected.total, *device),
    ]
    if price is not None:
        costs = [value / HOUR * price for value in (expected.total.likely, expected.total.low, expected.total.high)]
        lines.append("cost at {:g} an hour: about {:.2f} ({:.2f} to {:.2f})".format(price, *costs))
    return "\n".join([*lines, "nothing was written"])
