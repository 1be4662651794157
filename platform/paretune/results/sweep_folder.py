"""The folders of sweeps: their files, and how they are made, found and changed."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from paretune.search.pareto_front import keeps_all
from paretune.search.space import Space
from paretune.storage.atomic_files import new_folder, read_json, write_text
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import Record, read_record, record_file, recorded_trials
from paretune.system.file_lock import exclusive_file_lock
from paretune.training.history import was_begun


@dataclass(frozen=True)
class MetricBounds:
    """Range of a metric that a constraint allows; None for an open end."""

    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class Sweep:
    """One sweep's folder."""

    runs: Path
    """Output folder, shared by several sweeps and their MLflow database."""
    name: str
    further: str | None = None
    """Name of a further target, whose comparison, limits and records this object then has; None for the first one."""

    def on(self, target: str | None) -> Sweep:
        """Return this sweep as one of its targets has it: job, limits, comparison and front.

        Args:
            target: name; None for the first one.

        Raises:
            UserError: the sweep has no such target.
        """
        if target is not None and target not in self.whole_job.targets:
            names = ", ".join(self.whole_job.targets)
            raise UserError(f"sweep {self.name!r} has no target {target!r}; it has {names}")
        further = None if target in (None, self.whole_job.target_name) else target
        if further == self.further:
            return self
        view = replace(self, further=further)
        view.__dict__.update(facts=self.facts, whole_job=self.whole_job)  # read once for all targets
        return view

    def each_target(self) -> list[Sweep]:
        """Return this sweep as each of its targets has it, the first one before the others."""
        return [self.on(name) for name in self.whole_job.targets]

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
        """Return the folder of generated datasets, shared by all sweeps of the output folder."""
        return dataset_cache(self.runs)

    @property
    def comparison(self) -> Path:
        """Return the file of the comparison of the front."""
        return self.folder / f"{self.of_target('comparison')}.json"

    def of_target(self, stem: str) -> str:
        """Return the name of a file or folder of a target: that of the first one is without its name."""
        return stem if self.further is None else f"{stem}-{self.further}"

    def command(self, verb: str, *options: str) -> str:
        """Return the command line of a verb for this sweep."""
        return command(verb, self.name, *runs_option(self.runs), *options)

    @property
    def finished(self) -> bool:
        """Return whether the sweep is finished."""
        return (self.folder / "finished").exists()

    def mark_finished(self) -> None:
        """Mark the sweep as finished."""
        write_text(self.folder / "finished", f"{time.time()}\n")

    @property
    def exhausted(self) -> bool:
        """Return whether the space has fewer recipes than the budget."""
        return (self.folder / "exhausted").exists()

    def mark_exhausted(self) -> None:
        """Mark the space as exhausted."""
        write_text(self.folder / "exhausted", f"{time.time()}\n")

    @property
    def ended(self) -> str | None:
        """Return which limit ended the search before its last trial; None if none did."""
        mark = self.folder / "ended"
        return mark.read_text().strip() if mark.exists() else None

    def mark_ended(self, reason: str) -> None:
        """Record which limit ended the search."""
        write_text(self.folder / "ended", f"{reason}\n")

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Contents of ``SWEEP_FILE``: job, version, time."""
        return read_json(self.folder / SWEEP_FILE, "restore it from a copy")

    @property
    def left_out(self) -> list[dict[str, Any]]:
        """Return the unused parts of the data, as recorded when the sweep began."""
        data: dict[str, Any] = self.facts.get("data", {})
        return list(data.get("left_out", ()))

    def note(self, **facts: Any) -> None:
        """Add facts to ``SWEEP_FILE``; the caller holds the sweep's lock."""
        write_text(self.folder / SWEEP_FILE, json.dumps({**self.facts, **facts}, indent=1))
        self.facts.update(facts)

    @property
    def job(self) -> Job:
        """Return the job, every field with its value; of a further target that one alone.

        Raises:
            UserError: this version cannot read a job of the version that wrote it.
        """
        return self.whole_job if self.further is None else self.whole_job.for_target(self.further)

    @cached_property
    def whole_job(self) -> Job:
        """The job with all of its targets.

        Raises:
            UserError: this version cannot read a job of the version that wrote it.
        """
        try:
            return Job.model_validate(self.facts["job"])
        except (ValidationError, KeyError) as error:
            version = self.facts.get("paretune", "unknown")
            raise UserError(f"{self.folder}: made by Paretune {version}, this is {__version__}: {error}") from error

    @property
    def promises(self) -> list[AdvicePrediction]:
        """Return the predictions for recipes of advice that this sweep tries first."""
        return [AdvicePrediction(**told) for told in self.facts.get("promises", ())]

    @cached_property
    def space(self) -> Space:
        """The space as it was when the sweep was made."""
        return checked_space(read_yaml(self.folder / SPACE_FILE), self.job, kept=True)

    @property
    def _base(self) -> Mapping[str, float]:
        """Return the metrics of the eager baseline, read again only if its record changes."""
        try:
            stat = record_file(self.folder, EAGER).stat()
        except FileNotFoundError:
            return {}
        return _metrics_of_baseline(self.folder, self.further, (stat.st_ino, stat.st_mtime_ns, stat.st_size))

    def violations(self, record: Record) -> dict[str, float]:
        """Return constraint → by how much a record breaks it: 0 or less is feasible, inf an unknown value."""
        base = self._base
        return {
            metric: constraint.violation(record.metrics.get(metric, math.nan), base.get(metric))
            for metric, constraint in self.job.constraints.items()
        }

    def feasible(self, record: Record) -> bool:
        """Return whether a record keeps every constraint."""
        return keeps_all(self.violations(record))

    @property
    def bounds(self) -> dict[str, MetricBounds]:
        """Return the range that each constraint allows, for lines in plots.

        A ``max_drop`` has no range before the eager baseline is done.
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
        """Return metric → smallest allowed value, for constraints with a lower bound."""
        return {metric: bounds.least for metric, bounds in self.bounds.items() if bounds.least is not None}

    @property
    def ceilings(self) -> dict[str, float]:
        """Return metric → largest allowed value, for constraints with an upper bound."""
        return {metric: bounds.most for metric, bounds in self.bounds.items() if bounds.most is not None}

    @property
    def begun(self) -> bool:
        """Return whether an epoch of the baseline's training, or a trial, is finished."""
        trained = self.job.baseline is None and was_begun(self.baseline)
        return trained or bool(recorded_trials(self.folder))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from running this sweep while the block runs.

        Raises:
            UserError: another process is running it.
        """
        with exclusive_file_lock(self.folder, f"sweep {self.name!r}"):
            yield


@functools.lru_cache(maxsize=8)
def _metrics_of_baseline(folder: Path, target: str | None, _file: tuple[int, ...]) -> Mapping[str, float]:
    """Return the metrics of the eager baseline on a target; ``_file`` identifies one version of its record."""
    eager = read_record(folder, EAGER)
    return {} if eager is None else on_target(eager, target).metrics


def output_folder(job: Job) -> Path:
    """Return the output folder of a job."""
    return expanded(job.output)


def new_sweep(plan: Plan, name: str, promises: Sequence[AdvicePrediction] = ()) -> Sweep:
    """Make the folder of a new sweep, whole or not at all.

    Args:
        plan: job and space.
        name: of the sweep.
        promises: predictions for recipes of advice among its first ones.

    Raises:
        UserError: the name is taken or not valid, or the output folder cannot be written.
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
    """Return the message for a name that is taken."""
    if not (sweep.folder / SWEEP_FILE).is_file():
        return f"{sweep.folder} exists already, and is no sweep; --name gives another name"
    return (
        f"a sweep {sweep.name!r} exists already in {sweep.runs}: "
        f"`{sweep.command('resume')}` goes on with it, --name gives another name"
    )


def find_sweep(runs: Path, name: str) -> Sweep:
    """Return a sweep on disk.

    Raises:
        UserError: there is none of that name; the message lists the others.
    """
    sweep = Sweep(runs, checked_name(name))
    if not (sweep.folder / SWEEP_FILE).is_file():
        found = sorted(path.parent.name for path in runs.glob(f"*/{SWEEP_FILE}"))
        there = f"there are: {', '.join(found)}" if found else "there is none"
        raise UserError(f"no sweep {name!r} in {runs}; {there}")
    return sweep
