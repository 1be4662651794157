"""The folders of sweeps: what lies where in them, and how they are made, found and changed."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from paretune import __version__
from paretune.config.auto_training import settled
from paretune.config.job import Job
from paretune.config.output_folder import (
    SPACE_FILE,
    SWEEP_FILE,
    checked_name,
    dataset_cache,
    expanded,
    new_sweep_name,
    runs_option,
)
from paretune.config.plan import Plan, checked_space
from paretune.core.baselines import EAGER
from paretune.core.errors import UserError
from paretune.core.hints import command
from paretune.core.yaml_document import read_yaml
from paretune.results.advice_outcomes import AdvicePrediction
from paretune.search.space import Space
from paretune.storage.atomic_files import new_folder, write_text
from paretune.storage.trial_record import Record, read_record, read_records, record_file, recorded_trials
from paretune.system.file_lock import exclusive_file_lock
from paretune.training.history import was_begun


@dataclass(frozen=True)
class MetricBounds:
    """What a constraint allows of a metric; None: no such end."""

    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Sweep:
    """One sweep's folder."""

    runs: Path
    """The output folder, which all its sweeps share with one MLflow database."""
    name: str

    @property
    def folder(self) -> Path:
        """Return the sweep's own folder."""
        return self.runs / self.name

    @property
    def baseline(self) -> Path:
        """Return the folder of the trained baseline."""
        return self.folder / "baseline"

    @property
    def cache(self) -> Path:
        """Return the folder of generated datasets, shared by all sweeps."""
        return dataset_cache(self.runs)

    @property
    def comparison(self) -> Path:
        """Return the file of the interleaved measurement of the front."""
        return self.folder / "comparison.json"

    def command(self, verb: str) -> str:
        """Return the command line that does something with this sweep."""
        return command(verb, self.name, *runs_option(self.runs))

    @property
    def finished(self) -> bool:
        """Tell whether all of it is done."""
        return (self.folder / "finished").exists()

    def mark_finished(self) -> None:
        """Note that all of it is done."""
        write_text(self.folder / "finished", f"{time.time()}\n")

    @property
    def exhausted(self) -> bool:
        """Tell whether the space held fewer recipes than the budget."""
        return (self.folder / "exhausted").exists()

    def mark_exhausted(self) -> None:
        """Note that the space holds nothing more to try."""
        write_text(self.folder / "exhausted", f"{time.time()}\n")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What was written when the sweep was made: job, version, time."""
        facts: dict[str, Any] = json.loads((self.folder / SWEEP_FILE).read_text())
        return facts

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """Return what of the data is not used, as it was found when the sweep was begun."""
        data: dict[str, Any] = self.facts.get("data", {})
        return list(data.get("left_out", ()))

    def note(self, **facts: Any) -> None:
        """Write more facts into ``sweep.json``; who holds the sweep's lock may."""
        write_text(self.folder / SWEEP_FILE, json.dumps({**self.facts, **facts}, indent=1))
        self.facts.update(facts)

    @cached_property
    def job(self) -> Job:
        """The job, every field with its value.

        Raises:
            UserError: it was written by a Paretune whose jobs this one cannot read.
        """
        try:
            return Job.model_validate(self.facts["job"])
        except (ValidationError, KeyError) as error:
            version = self.facts.get("paretune", "unknown")
            raise UserError(f"{self.folder}: made by Paretune {version}, this is {__version__}: {error}") from error

    @property
    def promises(self) -> list[AdvicePrediction]:
        """Return what advice promised of recipes that this sweep tries first."""
        return [AdvicePrediction(**told) for told in self.facts.get("promises", ())]

    @cached_property
    def space(self) -> Space:
        """The space, as it was when the sweep was made."""
        return checked_space(read_yaml(self.folder / SPACE_FILE), self.job, kept=True)

    @property
    def _base(self) -> Mapping[str, float]:
        """Return the metrics of the eager baseline, read once for as long as its record is the same file."""
        try:
            stat = record_file(self.folder, EAGER).stat()
        except FileNotFoundError:
            return {}
        return _metrics_of_baseline(self.folder, (stat.st_ino, stat.st_mtime_ns, stat.st_size))

    def violations(self, record: Record) -> dict[str, float]:
        """Return for each constraint by how much a record breaks it; 0 or less is feasible, an unknown value inf."""
        base = self._base
        return {
            metric: constraint.violation(record.metrics.get(metric, math.nan), base.get(metric))
            for metric, constraint in self.job.constraints.items()
        }

    def feasible(self, record: Record) -> bool:
        """Tell whether a record keeps every constraint."""
        return all(violation <= 0 for violation in self.violations(record).values())

    @property
    def bounds(self) -> dict[str, MetricBounds]:
        """Return what each constraint allows of its metric; of ``max_drop`` before the eager baseline is done, nothing.

        For lines in pictures; whether a record keeps them is said by ``violations``.
        """
        base, found = self._base, {}
        for metric, constraint in self.job.constraints.items():
            least = constraint.min
            if constraint.max_drop is not None and metric in base:
                least = base[metric] - constraint.max_drop
            found[metric] = MetricBounds(least, constraint.max)
        return found

    @property
    def floors(self) -> dict[str, float]:
        """Return the smallest value that the constraints allow of each metric they bound from below."""
        return {metric: bounds.least for metric, bounds in self.bounds.items() if bounds.least is not None}

    @property
    def ceilings(self) -> dict[str, float]:
        """Return the largest value that the constraints allow of each metric they bound from above."""
        return {metric: bounds.most for metric, bounds in self.bounds.items() if bounds.most is not None}

    @property
    def begun(self) -> bool:
        """Tell whether anything was done that takes time: an epoch or all of the baseline's training, or a trial."""
        trained = self.job.baseline is None and was_begun(self.baseline)
        return trained or bool(recorded_trials(self.folder))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only one who runs this sweep; the kernel lets go when the holder dies.

        Raises:
            UserError: somebody else is running it.
        """
        with exclusive_file_lock(self.folder, f"sweep {self.name!r}"):
            yield


@functools.lru_cache(maxsize=8)
def _metrics_of_baseline(folder: Path, _file: tuple[int, ...]) -> Mapping[str, float]:
    """Return the metrics of trial 0; ``_file`` tells one version of its record from another."""
    eager = read_record(folder, EAGER)
    return {} if eager is None else eager.metrics


def output_folder(job: Job) -> Path:
    """Return the folder under which a job's results are written."""
    return expanded(job.output)


def new_sweep(plan: Plan, name: str, promises: Sequence[AdvicePrediction] = ()) -> Sweep:
    """Make the folder of a new sweep, whole or not at all; what advice promised of its recipes is kept in it.

    Raises:
        UserError: the name is taken, also by another process at this moment, or unfit, or the output folder cannot
            be written.
    """
    sweep = Sweep(output_folder(plan.job), new_sweep_name(name))
    if sweep.folder.exists():
        raise UserError(_taken(sweep))
    job, chosen = settled(plan.job)
    facts = {
        "paretune": __version__,
        "name": name,
        "created": time.time(),
        "job": {**job.tree(), "space": SPACE_FILE},
        "chosen": chosen,
        "promises": [promise.tree() for promise in promises],
    }
    try:
        with new_folder(sweep.folder) as draft:
            (draft / SWEEP_FILE).write_text(json.dumps(facts, indent=1))
            (draft / SPACE_FILE).write_text(plan.space_text)
    except FileExistsError:
        raise UserError(_taken(sweep)) from None
    except OSError as error:
        raise UserError(f"output folder {sweep.runs} cannot be written: {error.strerror}") from error
    return sweep


def _taken(sweep: Sweep) -> str:
    """Return what to tell who asks for the name of something that is there."""
    if not (sweep.folder / SWEEP_FILE).is_file():
        return f"{sweep.folder} exists already, and is no sweep; --name gives another name"
    return (
        f"a sweep {sweep.name!r} exists already in {sweep.runs}: "
        f"`{sweep.command('resume')}` goes on with it, --name gives another name"
    )


def find_sweep(runs: Path, name: str) -> Sweep:
    """Find a sweep that is there.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    sweep = Sweep(runs, checked_name(name))
    if not (sweep.folder / SWEEP_FILE).is_file():
        found = sorted(path.parent.name for path in runs.glob(f"*/{SWEEP_FILE}"))
        there = f"there are: {', '.join(found)}" if found else "there is none"
        raise UserError(f"no sweep {name!r} in {runs}; {there}")
    return sweep


def change_search(sweep: Sweep, *, trials: int | None = None, concurrent: int | None = None) -> Sweep:
    """Let a sweep try more recipes than it was made for, also one that is finished, or other numbers at once.

    Args:
        sweep: found by ``find_sweep``.
        trials: all that it may try, both baselines and those done among them; None leaves it.
        concurrent: how many at once from now on; None leaves it.

    Raises:
        UserError: it may try more than that already, or no sweep may have such a number, or somebody else runs it.
    """
    before = sweep.job.search.trials
    if trials is not None and trials < before:
        raise UserError(f"--trials {trials}: sweep {sweep.name!r} may try {before} already; give {before + 1} or more")
    given = {"trials": trials, "concurrent": concurrent}
    changes = {field: value for field, value in given.items() if value is not None}
    job = sweep.facts["job"]
    job = {**job, "search": {**job["search"], **changes}}
    try:
        Job.model_validate(job)
    except ValidationError as error:
        told = error.errors()[0]
        field = str(told["loc"][-1])
        raise UserError(f"--{field} {changes[field]}: {told['msg']}") from error
    with sweep.lock():
        write_text(sweep.folder / SWEEP_FILE, json.dumps({**sweep.facts, "job": job}, indent=1))
        if trials is not None and len(read_records(sweep.folder)) < trials:
            for mark in ("exhausted", "finished"):
                (sweep.folder / mark).unlink(missing_ok=True)
    return Sweep(sweep.runs, sweep.name)
