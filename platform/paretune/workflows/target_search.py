"""The targets of a sweep as its one search has them: objectives, limits and records side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from paretune.config.job import Job
from paretune.core.metrics import Direction, is_of_target
from paretune.results.sweep_folder import Sweep
from paretune.storage.target_records import at_target, side_by_side
from paretune.storage.trial_record import Record


def target_objectives(job: Job) -> dict[str, Direction]:
    """Return the objectives of a search: those of the first target, and those of others that differ between targets."""
    further = {
        at_target(metric, name): direction
        for name in job.further_targets
        for metric, direction in job.objectives.items()
        if is_of_target(metric)
    }
    return {**job.objectives, **further}


def all_targets(job: Job, record: Record) -> Record:
    """Return a record with the objectives and the limited metrics of every target."""
    metrics = [metric for _, metric in job.asked if is_of_target(metric)]
    return side_by_side(record, job.further_targets, metrics)


@dataclass(frozen=True)
class TargetSearch:
    """The targets of a sweep in its search."""

    sweep: Sweep

    @property
    def objectives(self) -> dict[str, Direction]:
        """Return the objectives of the search."""
        return target_objectives(self.sweep.job)

    @property
    def own_objectives(self) -> list[list[str]]:
        """Return the objectives that differ between targets, for each target; empty for a sweep with one."""
        job = self.sweep.job
        own = [metric for metric in job.objectives if is_of_target(metric)]
        further = [[at_target(metric, name) for metric in own] for name in job.further_targets]
        return [own, *further] if further and own else []

    def view(self, record: Record) -> Record:
        """Return a record with the objectives and the limited metrics of every target."""
        return all_targets(self.sweep.job, record)

    @cached_property
    def _views(self) -> list[Sweep]:
        return self.sweep.each_target()

    def violations(self, record: Record) -> dict[str, float]:
        """Return by how much a record (`view`) breaks each constraint on the target where it breaks least.

        A version is feasible if it keeps every constraint on one target. The values are therefore all those of one
        target; the least of each constraint over the targets would call a version feasible that breaks another one on
        each of them. They are compared by their sums, as constrained domination compares versions, after the number of
        those that are not known.
        """
        each = [view.violations(replace(record, metrics=_on(record.metrics, view.further))) for view in self._views]
        return min(each, key=_badness)


def _badness(violations: Mapping[str, float]) -> tuple[int, float]:
    """Return the number of infinite violations and the sum of the others above 0."""
    known = [violation for violation in violations.values() if not math.isinf(violation)]
    return len(violations) - len(known), sum(max(0.0, violation) for violation in known)


def _on(metrics: Mapping[str, float], target: str | None) -> dict[str, float]:
    """Return side-by-side metrics as one target has them; None is the first one."""
    plain = {name: value for name, value in metrics.items() if "@" not in name}
    if target is None:
        return plain
    end = at_target("", target)
    own = {name.removesuffix(end): value for name, value in metrics.items() if name.endswith(end)}
    return {**{name: value for name, value in plain.items() if not is_of_target(name)}, **own}
