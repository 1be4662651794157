"""The trials that may be on a front by the intervals of their latencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from paretune.search.latency_scale import SCALED
from paretune.search.pareto_front import FrontRules, dominates, pareto_front
from paretune.storage.trial_record import Record


def contenders(records: Sequence[Record], judge: FrontRules) -> list[int]:
    """Return the trials that may belong on the front by the intervals of their latencies, likeliest first.

    A trial is left out if even at the low end of its interval it breaks a constraint, or another one dominates it at
    the high end of that one's.
    """
    complete = [record for record in records if record.state == "complete"]
    hopeful = [(record, _at(record, "low")) for record in complete if judge.feasible(_at(record, "low"))]
    sure = [_at(record, "high") for record in complete if judge.feasible(_at(record, "high"))]
    sure = [sure[i] for i in pareto_front([one.metrics for one in sure], judge.objectives)]
    gains = [(one.number, tuple(o.gain(one.metrics) for o in judge.objectives)) for one in sure]
    found = []
    for record, best in hopeful:
        mine = tuple(objective.gain(best.metrics) for objective in judge.objectives)
        unknown = any(map(math.isnan, mine))
        if not unknown and not any(number != record.number and dominates(gain, mine) for number, gain in gains):
            found.append((_behind(record, complete, judge), record.number))
    return [number for _, number in sorted(found)]


def _behind(record: Record, others: Sequence[Record], judge: FrontRules) -> float:
    """Return the cost of a record as a multiple of the cheapest other's that is as good; below 1 it leads."""
    wanted, cost = judge.quality.gain(record.metrics), -judge.cost.gain(record.metrics)
    costs = [-judge.cost.gain(other.metrics) for other in others if judge.quality.gain(other.metrics) >= wanted]
    least = min((value for value in costs if value > 0), default=math.nan)
    return cost / least if math.isfinite(least) else 1.0


def _at(record: Record, end: Literal["low", "high"]) -> Record:
    """Return a record whose latencies are at one end of their intervals."""
    ends = {name: record.metrics[f"{name}_{end}"] for name in SCALED if f"{name}_{end}" in record.metrics}
    return replace(record, metrics={**record.metrics, **ends})
