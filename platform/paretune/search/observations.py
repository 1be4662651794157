"""What a sampler may learn from a trial beyond its values: which of them are known, and how surely."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from paretune.search.early_stop import MARGIN
from paretune.search.latency_scale import SCALED

if TYPE_CHECKING:
    from paretune.storage.trial_record import Record

OBSERVED = "paretune.observed"
"""Attribute of a study's trial: ``Observation.tree``."""
SURE = 1.96
"""Standard deviations on each side of the mean that hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Observation:
    """The objectives of a trial as far as they are known."""

    values: tuple[float | None, ...]
    """Value of each objective: measured, or expected of a trial that was stopped."""
    deviations: tuple[float, ...]
    """Standard deviation of each value; 0 where it is not known."""
    limits: Mapping[str, float]
    """Constraint → standard deviation of its metric; 0 where it is not known."""
    expected: bool = False
    """Whether the values were not measured at the end of the trial."""

    def tree(self) -> dict[str, Any]:
        """Return the observation as plain data."""
        return {
            "values": list(self.values),
            "deviations": list(self.deviations),
            "limits": dict(self.limits),
            "expected": self.expected,
        }

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Observation:
        """Return the observation that ``tree`` describes."""
        return cls(tuple(tree["values"]), tuple(tree["deviations"]), dict(tree["limits"]), tree["expected"])


def measured(metrics: Mapping[str, float], objectives: Sequence[str], constraints: Sequence[str]) -> Observation:
    """Return the observation of a complete trial.

    Args:
        metrics: of the trial, intervals among them.
        objectives: their metrics.
        constraints: their metrics.
    """
    deviations = tuple(deviation_of(metrics, name) or 0.0 for name in objectives)
    limits = {name: deviation_of(metrics, name) or 0.0 for name in constraints}
    return Observation(tuple(metrics.get(name) for name in objectives), deviations, limits)


def expected(metrics: Mapping[str, float], objectives: Sequence[str], constraints: Sequence[str]) -> Observation:
    """Return the observation of a trial that was stopped, or is paused, before the end of its training.

    A latency is expected from the timing of the untrained network. Any other value counts as unknown unless its
    interval is known.

    Args:
        metrics: expected at the end of the training, intervals among them.
        objectives: their metrics.
        constraints: their metrics.
    """
    spread = {name: deviation for name in metrics if (deviation := expected_deviation(metrics, name)) is not None}
    return Observation(
        tuple(metrics[name] if name in spread else None for name in objectives),
        tuple(spread.get(name, 0.0) for name in objectives),
        {name: spread[name] for name in constraints if name in spread},
        expected=True,
    )


NOTHING = Observation((), (), {}, expected=True)
"""Observation of a trial that has no result of its own, and did not fail."""


@dataclass(frozen=True)
class TrialResult:
    """What is passed on of a trial's record."""

    values: list[float] | None
    """Value of each objective: measured, or expected of a trial that was stopped; None if one is unknown."""
    violations: Mapping[str, float]
    """Constraint → by how much it is broken, as far as it is known."""
    observation: Observation | None
    """What is known of the objectives; None if the recipe failed."""


def result_of(
    record: Record | None, objectives: Sequence[str], violations: Callable[[Record], Mapping[str, float]]
) -> TrialResult:
    """Return what is passed on of a trial.

    Args:
        record: of the trial; None if it has no result of its own, such as one that repeats a running trial.
        objectives: their metrics.
        violations: function of a record: constraint → by how much it is broken.
    """
    if record is None:
        return TrialResult(None, {}, NOTHING)
    stopped = record.state == "stopped"
    known = replace(record, metrics=record.expected) if stopped else record
    values = [value for name in objectives if math.isfinite(value := known.metrics.get(name, math.nan))]
    complete = len(values) == len(objectives) and record.state != "failed"
    if not (complete or stopped):
        return TrialResult(None, {}, None)
    broken = violations(known)
    of = expected if stopped else measured
    observation = of(known.metrics, objectives, list(broken))
    # what is not known of a trial that was stopped is no violation
    broken = {name: by for name, by in broken.items() if not (stopped and math.isinf(by))}
    return TrialResult(values if complete else None, broken, observation)


def expected_deviation(metrics: Mapping[str, float], metric: str) -> float | None:
    """Return the standard deviation of an expected value; None if it is not known."""
    known = deviation_of(metrics, metric)
    if known is None and metric.partition("@")[0] in SCALED:
        return MARGIN / SURE * metrics[metric]
    return known


def deviation_of(metrics: Mapping[str, float], metric: str) -> float | None:
    """Return the standard deviation of a metric from its 95 % interval, or from that of its change; None without one.

    The end of an interval, such as ``map_delta_low``, varies as the change itself does.
    """
    name = metric.removesuffix("_low").removesuffix("_delta")
    for pair in ((f"{name}_low", f"{name}_high"), (f"{name}_delta_low", f"{name}_delta_high")):
        low, high = (metrics.get(end, math.nan) for end in pair)
        if math.isfinite(low) and math.isfinite(high):
            return max(0.0, high - low) / (2 * SURE)
    return None
