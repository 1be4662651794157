"""The growth of a front, trial by trial, as metrics of the sweep's run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.search.pareto_front import FrontRules, hypervolume, pareto_front
from paretune.storage.trial_record import Record


@dataclass(frozen=True)
class FrontStep:
    """The front after a number of trials."""

    number: int
    """Number of finished trials."""
    metrics: Mapping[str, float]
    """Size and hypervolume of the front, numbers of trials that are done, failed and stopped."""
    stamp: int
    """End of the last of these trials in milliseconds since 1970."""


def front_steps(
    records: Sequence[Record], front: Mapping[str, Any], judge: FrontRules, done: int
) -> Iterator[FrontStep]:
    """Yield the front after each trial beyond the first ones.

    Args:
        records: of all trials.
        front: result of ``front_object``, for the eager baseline.
        judge: objectives and constraints.
        done: number of trials whose steps are logged.
    """
    baseline = (front["baseline"] or {"metrics": {}})["metrics"]
    ordered = sorted(records, key=lambda record: (record.finished, record.number))
    before = ordered[:done]
    best = _best([r.metrics for r in before if r.state == "complete" and judge.feasible(r)], judge)
    ended = Counter(record.state for record in before)
    for number, record in enumerate(ordered[done:], done + 1):
        ended[record.state] += 1
        if record.state == "complete" and judge.feasible(record):
            best = _best([*best, record.metrics], judge)
        counts = {f"trials_{state}": float(ended[state]) for state in ("failed", "stopped")}
        values = {"front_size": float(len(best)), "trials_done": float(number), **counts}
        volume = hypervolume(best, judge.objectives, baseline)  # dominated points add nothing
        if volume is not None:
            values["hypervolume"] = volume
        yield FrontStep(number, values, int(record.finished * 1000))


def _best(points: Sequence[Mapping[str, float]], judge: FrontRules) -> list[Mapping[str, float]]:
    """Return the points that no other one dominates."""
    return [points[i] for i in pareto_front(points, judge.objectives)]
