"""Pareto front and hypervolume."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import ge
from typing import Any, Literal

from paretune.core.baselines import EAGER
from paretune.core.metrics import PRINTED, change_in, metric_of
from paretune.core.recipe_text import runtime_title
from paretune.evaluation.learned import unlearned_reason
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


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Return whether gains are nowhere below others and not equal to them."""
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
    unchanged = [point_of(one, told, chosen) for one in _unchanged(allowed, eager, judge)]
    found = {
        "baseline": point_of(eager, told) if eager else None,
        "front": front,
        "unchanged": unchanged,
        "decided_by": "comparison" if decided else "trials",
    }
    return {
        "sweep": sweep,
        "target": target,
        **found,
        "best": _best(found, complete, judge),
        "objectives": {objective.metric: objective.direction for objective in judge.objectives},
        "hypervolume": hypervolume([r.metrics for r in allowed], judge.objectives, base),
        "hypervolume_unknown": no_hypervolume(judge.objectives, base),
        "reference": {o.metric: 0 if o.direction == "maximize" else base.get(o.metric) for o in judge.objectives},
    }


def _unchanged(complete: Sequence[Record], eager: Record | None, judge: FrontRules) -> list[Record]:
    """Return the records of the trained network without a step, at its own input size, that keep every constraint."""
    if eager is None:
        return []
    size = str(eager.recipe.get("input_size"))
    same = [one for one in complete if not one.recipe.get("steps") and str(one.recipe.get("input_size")) == size]
    known = [one for one in same if not any(math.isnan(o.gain(one.metrics)) for o in judge.objectives)]
    return [one for one in known if judge.feasible(one)]


def is_tied(first: Mapping[str, Any], other: Mapping[str, Any], decided_by: str, judge: FrontRules) -> bool:
    """Return whether it is not known which of two points costs less.

    The comparison of the front decides. Without it, costs are tied whose intervals overlap.
    """
    if other["trial"] == first["trial"]:
        return False
    if decided_by == "comparison":
        return other["trial"] in first["tied_with"] or first["trial"] in other["tied_with"]
    name = judge.cost.metric
    ends = [point["metrics"].get(f"{name}_{end}") for point in (first, other) for end in ("low", "high")]
    if any(end is None for end in ends):
        return False
    low, high, other_low, other_high = ends
    return bool(low <= other_high and other_low <= high)


def unchanged_instead(
    version: Mapping[str, Any], unchanged: Sequence[Mapping[str, Any]], decided_by: str, judge: FrontRules
) -> Mapping[str, Any] | None:
    """Return the cheapest unchanged network that is to be preferred to a version; None if there is none.

    It is preferred if it surely costs no more or the costs are tied, and its quality is as high or within the 95 %
    interval of the version's difference to the eager baseline.

    Args:
        version: point of a front.
        unchanged: points of the unchanged network.
        decided_by: what decided the front, as ``front_object`` returns it.
        judge: objectives.
    """
    if version["trial"] in [point["trial"] for point in unchanged]:
        return None
    cost, quality = judge.cost, judge.quality

    def preferred(point: Mapping[str, Any]) -> bool:
        dearer = cost.gain(point["metrics"]) < cost.gain(version["metrics"])
        if dearer and not is_tied(version, point, decided_by, judge):
            return False
        if quality.gain(point["metrics"]) >= quality.gain(version["metrics"]):
            return True
        change = change_in(version["metrics"], quality.metric)
        mine = change_in(point["metrics"], quality.metric)
        return change is not None and change[0] <= (0.0 if mine is None else mine[1])

    found = [point for point in unchanged if preferred(point)]
    return max(found, key=lambda point: cost.gain(point["metrics"]), default=None)


def _best(front: Mapping[str, Any], complete: Sequence[Record], judge: FrontRules) -> dict[str, Any] | None:
    """Return the recommended point: of the cheapest and those tied with it, the one of the highest quality.

    The unchanged network is recommended instead where the version gains nothing over it (`unchanged_instead`).
    """
    points, unchanged = front["front"], front["unchanged"]
    if not points:
        return None
    first = points[0]
    tied = [point for point in points if point["trial"] in first["tied_with"]]
    best = max([first, *tied], key=lambda point: judge.quality.gain(point["metrics"]))
    instead = unchanged_instead(best, unchanged, front["decided_by"], judge)
    chosen, note = instead or best, None
    if (why := unlearned_reason((front["baseline"] or {"metrics": {}})["metrics"])) is not None:
        note = f"no version is worth deploying, since the trained network {why}"
    elif instead is not None:
        note = gained_nothing(best, instead, judge)
    elif best["trial"] in [point["trial"] for point in unchanged] and any(one.recipe.get("steps") for one in complete):
        note = gained_nothing(None, best, judge)
    return {"trial": chosen["trial"], "claim": judge.claim, "artefact": chosen["artefact"], "note": note}


def gained_nothing(version: Mapping[str, Any] | None, unchanged: Mapping[str, Any], judge: FrontRules) -> str:
    """Return the advice to deploy the unchanged network; ``version`` is a version that is no better, if any."""
    why = ""
    if version is not None:
        aims = f"{judge.cost.metric} and {judge.quality.metric}"
        why = f"trial {version['trial']} is not surely better than trial {unchanged['trial']} in {aims}; "
    return f"compression gained nothing: {why}deploy the unchanged network on {runtime_title(unchanged['recipe'])}"


def best_point(front: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the recommended point of a front that has one, which may be an unchanged network beside the front."""
    points: list[Mapping[str, Any]] = [*front["front"], *front["unchanged"]]
    return next(point for point in points if point["trial"] == front["best"]["trial"])


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
