"""Pareto front and hypervolume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import ge
from typing import Any, Literal

from paretune.core.baselines import EAGER
from paretune.core.metrics import PRINTED, metric_of
from paretune.search.latency_scale import SCALED
from paretune.storage.trial_record import Record


@dataclass(frozen=True)
class Objective:
    """A metric and which way is better."""

    metric: str
    direction: Literal["maximize", "minimize"]

    def gain(self, metrics: Mapping[str, float | None]) -> float:
        """Return the value so that more is better; NaN when unknown or not finite."""
        value = metrics.get(self.metric)
        if value is None or not math.isfinite(value):
            return math.nan
        return value if self.direction == "maximize" else -value


def objectives_of(directions: Mapping[str, Literal["maximize", "minimize"]]) -> list[Objective]:
    """Return the objectives of metric → direction, as jobs write them."""
    return [Objective(metric, direction) for metric, direction in directions.items()]


def pareto_front(points: Sequence[Mapping[str, float | None]], objectives: Sequence[Objective]) -> list[int]:
    """Return the indices of the points that no other point dominates, in their order.

    A point dominates another when it is nowhere worse and somewhere better. Of equal points the first
    stays; a point with an unknown objective never enters.
    """
    gains = [tuple(objective.gain(point) for objective in objectives) for point in points]
    known = [i for i, gain in enumerate(gains) if not any(map(math.isnan, gain))]
    kept: list[int] = []
    for i in sorted(known, key=lambda i: ([-gain for gain in gains[i]], i)):  # what beats a point comes before it
        rivals = kept[-1:] if len(objectives) == 2 else kept  # of two objectives, the last kept is best in the second
        if not any(all(map(ge, gains[rival], gains[i])) for rival in rivals):
            kept.append(i)
    return sorted(kept)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a >= b for a, b in zip(one, other, strict=True)) and one != other


def hypervolume_2d(points: Sequence[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Return the area that points dominate above a reference point; in both coordinates more is better.

    Zitzler and Thiele, Multiobjective optimization using evolutionary algorithms, PPSN 1998. Points that
    are not above the reference in both coordinates add nothing.
    """
    above = sorted(((x, y) for x, y in points if x > reference[0] and y > reference[1]), reverse=True)
    area, height = 0.0, reference[1]
    for x, y in above:
        if y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def hypervolume(
    points: Sequence[Mapping[str, float | None]],
    objectives: Sequence[Objective],
    baseline: Mapping[str, float | None],
) -> float | None:
    """Return the hypervolume of points: quality against log(baseline's cost / cost).

    The reference point is (0, the eager baseline's cost): a candidate dearer than the baseline, or of no
    quality, adds nothing; nor does one with an unknown value. None where ``no_hypervolume`` gives a reason.
    """
    if no_hypervolume(objectives, baseline) is not None:
        return None
    up, down = sorted(objectives, key=lambda objective: objective.direction)
    base = -down.gain(baseline)
    values = [(up.gain(point), -down.gain(point)) for point in points]
    # NaN compares false: unknown values, and costs no measurement can give, are left out
    return hypervolume_2d([(quality, math.log(base / cost)) for quality, cost in values if cost > 0], (0.0, 0.0))


def no_hypervolume(objectives: Sequence[Objective], baseline: Mapping[str, float | None]) -> str | None:
    """Return why fronts of these objectives have no hypervolume; None if they have one."""
    if sorted(objective.direction for objective in objectives) != ["maximize", "minimize"]:
        return "it needs two objectives, one to maximize and one to minimize"
    cost = next(objective for objective in objectives if objective.direction == "minimize")
    if not -cost.gain(baseline) > 0:
        return f"the eager baseline's {cost.metric} is not known"
    return None


def keeps_all(violations: Mapping[str, float]) -> bool:
    """Return whether every constraint is kept, given by how much each is broken: 0 or less is kept."""
    return all(violation <= 0 for violation in violations.values())


@dataclass(frozen=True)
class FrontRules:
    """Rules by which the points of a sweep's front are chosen."""

    objectives: Sequence[Objective]
    feasible: Callable[[Record], bool]
    """Whether a record keeps every constraint."""
    constraints: Sequence[str] = ()
    """Metrics that are constrained."""

    @property
    def cost(self) -> Objective:
        """Return the objective that a front is ordered by: the first to minimize, or else the first."""
        return next((o for o in self.objectives if o.direction == "minimize"), self.objectives[0])

    @property
    def quality(self) -> Objective:
        """Return the other objective, by which one of two equally cheap points is preferred."""
        return next((o for o in self.objectives if o.metric != self.cost.metric), self.cost)

    @property
    def timed(self) -> bool:
        """Return whether an objective is a latency that a comparison decides."""
        return any(objective.metric in SCALED for objective in self.objectives)

    @property
    def claim(self) -> str:
        """Return the description of a front's first point, such as "fastest that is accurate enough"."""
        if self.cost.direction == "minimize" and metric_of(self.cost.metric).unit == "ms":
            first = "fastest"
        else:
            first = f"{'smallest' if self.cost.direction == 'minimize' else 'largest'} {self.cost.metric}"
        if any(metric_of(metric).direction == "maximize" for metric in self.constraints):
            return f"{first} that is accurate enough"
        return f"{first} that keeps the constraints" if self.constraints else f"{first} of the front"


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
        if not unknown and not any(number != record.number and _dominates(gain, mine) for number, gain in gains):
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


def decides(comparison: Mapping[str, Any] | None, records: Sequence[Record], judge: FrontRules) -> bool:
    """Return whether a comparison decides the front: a latency is an objective, and all records were known to it."""
    if comparison is None or not judge.timed:
        return False
    return sorted(comparison.get("seen", ())) == sorted(record.number for record in records)


def front_object(
    sweep: str,
    target: str,
    records: Sequence[Record],
    judge: FrontRules,
    comparison: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the front as ``paretune front --json`` prints it.

    Args:
        sweep: name of the sweep.
        target: name of the target.
        records: of all trials, on one scale (`latency_scale.on_one_scale`); trial 0 is the eager baseline.
        judge: objectives and constraints.
        comparison: of the front, as ``compare_front`` returns it. If it decides, only trials that it measured are on
            the front.
    """
    complete = [record for record in records if record.state == "complete"]
    eager = next((record for record in complete if record.number == EAGER), None)
    decided = decides(comparison, records, judge)
    told: Mapping[str, Any] = comparison if decided and comparison is not None else {}
    allowed = [record for record in complete if judge.feasible(record)]
    if decided:
        allowed = [record for record in allowed if str(record.number) in told["latencies"]]
    chosen = [allowed[i] for i in pareto_front([r.metrics for r in allowed], judge.objectives)]
    chosen.sort(key=lambda record: (-judge.cost.gain(record.metrics), record.number))
    base: dict[str, float | None] = dict(eager.metrics) if eager else {}
    front = [point_of(record, told, chosen) for record in chosen]
    return {
        "sweep": sweep,
        "target": target,
        "baseline": point_of(eager, told) if eager else None,
        "front": front,
        "decided_by": "comparison" if decided else "trials",
        "best": _best(front, judge),
        "objectives": {objective.metric: objective.direction for objective in judge.objectives},
        "hypervolume": hypervolume([r.metrics for r in allowed], judge.objectives, base),
        "hypervolume_unknown": no_hypervolume(judge.objectives, base),
        "reference": {o.metric: 0 if o.direction == "maximize" else base.get(o.metric) for o in judge.objectives},
    }


def _best(front: Sequence[Mapping[str, Any]], judge: FrontRules) -> dict[str, Any] | None:
    """Return the recommended point: of the cheapest and those tied with it, the one of the highest quality."""
    if not front:
        return None
    first = front[0]
    tied = [point for point in front if point["trial"] in first["tied_with"]]
    best = max([first, *tied], key=lambda point: judge.quality.gain(point["metrics"]))
    return {"trial": best["trial"], "claim": judge.claim, "artefact": best["artefact"]}


def point_of(
    record: Record, comparison: Mapping[str, Any] | None = None, front: Sequence[Record] = ()
) -> dict[str, Any]:
    """Return one point of a front as it is printed.

    Args:
        record: of the trial.
        comparison: that decides the front; None or empty if none does.
        front: records of all points, for the ties among them.
    """
    told = comparison or {}
    known = {name: record.metrics.get(name) for name in PRINTED}
    row = told.get("latencies", {}).get(str(record.number)) or record.facts.get("duet") or {}
    verdicts = told.get("verdicts", {}).get(str(record.number), {})
    others = sorted(other.number for other in front if other.number != record.number)
    return {
        "trial": record.number,
        "recipe": dict(record.recipe),
        "metrics": {**known, **record.metrics},
        "artefact": record.artefact,
        "latency_mode": told.get("mode") or row.get("mode"),
        "unstable": row.get("unstable"),
        "tied_with": [number for number in others if verdicts.get(str(number)) == "tied"],
        "test": (told.get("test") or {}).get(str(record.number)),
    }
