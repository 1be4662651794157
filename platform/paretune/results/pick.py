"""Choice of one point of a sweep's front by a rule."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paretune.core.errors import UserError
from paretune.core.metrics import metric_of
from paretune.core.recipe_text import recipe_line
from paretune.reports.terminal import unsure
from paretune.search.latency_scale import LATENCY
from paretune.search.pareto_front import FrontRules, best_point, gained_nothing, is_tied, unchanged_instead

Point = Mapping[str, Any]
"""One point of a front, as ``front --json`` prints it."""
SLACK = 1e-9
"""Tolerance of limits for the rounding of floating-point differences."""
_MS = {"ms": 1.0, "s": 1e3, "us": 1e-3, "µs": 1e-3, "μs": 1e-3}
"""Unit → milliseconds; the micro sign and the Greek letter are two characters."""


@dataclass(frozen=True)
class PickRule:
    """Rule that chooses one point of a front."""

    kind: Literal["recommended", "max_latency", "max_drop", "min", "knee", "trial"]
    limit: float | None = None
    """Limit in the metric's unit; None for rules without a limit."""
    metric: str | None = None
    """Metric that the limit is for; None for the quality objective and for rules without a limit."""

    @property
    def slug(self) -> str:
        """Return the rule as the name of a folder, such as ``max-latency-10ms``."""
        limit = "" if self.limit is None else f"-{self.limit:g}{'ms' if self.kind == 'max_latency' else ''}"
        metric = f"-{self.metric}" if self.kind == "min" else ""
        return f"{self.kind.replace('_', '-')}{metric}{limit}"


@dataclass(frozen=True)
class Pick:
    """The chosen point of a front with the reasons for the choice."""

    rule: PickRule
    point: Point
    why: tuple[str, ...]
    """Sentences that explain the choice, its ties and its doubts."""
    cheaper: Point | None
    """Next point of the front that costs less; None at the end of the front."""
    better: Point | None
    """Next point of the front of a higher quality; None at the end of the front."""


def milliseconds(text: str) -> float:
    """Return a latency such as ``10ms``, ``0.01s`` or ``500us`` in milliseconds.

    Raises:
        UserError: no positive number with a unit.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*(ms|us|µs|μs|s)\s*", text)
    try:
        value = float(match[1]) * _MS[match[2]] if match else math.nan
    except ValueError:  # such as 1.2.3
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"--max-latency {text}: expected a positive number with its unit, such as 10ms, 0.01s or 500us")
    return value


def lower_bound(text: str) -> PickRule:
    """Return the rule of ``METRIC=VALUE``, the smallest value of a metric.

    Raises:
        UserError: not of that form, an unknown metric, or one that is better when smaller.
    """
    name, equals, written = text.partition("=")
    try:
        row, value = metric_of(name), float(written)
    except ValueError as error:
        hint = "expected METRIC=VALUE, such as map50=0.7"
        raise UserError(f"--min {text}: {error if equals and 'metric' in str(error) else hint}") from None
    if row.direction == "minimize" or not math.isfinite(value):
        hint = f"{name} is better when smaller" if math.isfinite(value) else "expected a finite number"
        raise UserError(f"--min {text}: {hint}; such as --min map50=0.7")
    return PickRule("min", value, name)


def pick(front: Mapping[str, Any], rule: PickRule, judge: FrontRules) -> Pick:
    """Choose one point of a front.

    ``max_latency`` takes the point of the highest quality within the limit. ``max_drop`` and ``min`` take the cheapest
    point within the limit, ``knee`` the result of `knee`. Where the costs of other points that keep the rule are tied
    with the chosen one's, the point of the highest quality among them is taken; and the unchanged network, if it keeps
    the limit, where compression gained nothing over it (`unchanged_instead`).

    Args:
        front: result of ``front_object``, with at least the eager baseline.
        rule: limit, or ``knee`` or ``recommended``.
        judge: objectives of the front.

    Raises:
        UserError: the front is empty, no point keeps the limit, or the front has no knee; the message names the
            nearest point.
    """
    points: list[Point] = list(front["front"])
    if not points:
        raise UserError(f"the front of sweep {front['sweep']!r} is empty: no trial keeps the job's constraints")
    metric = judge.quality.metric if rule.kind == "max_drop" else rule.metric
    rule = PickRule(rule.kind, rule.limit, LATENCY if rule.kind == "max_latency" else metric)
    kept = points if rule.limit is None else _within(points, rule, front)
    first, reason = _first(front, kept, rule, judge)
    tied: list[Point] = []
    if rule.kind != "recommended":  # which has weighed its ties
        tied = [point for point in kept if is_tied(first, point, front["decided_by"], judge)]
    chosen = max([first, *tied], key=lambda point: judge.quality.gain(point["metrics"]))
    notes = _tie_notes(first, chosen, tied, judge)
    if rule.limit is not None:
        baseline = front["baseline"]["metrics"].get(rule.metric)
        same = [point for point in front["unchanged"] if _excess(point, rule, baseline) <= SLACK]
        if (instead := unchanged_instead(chosen, same, front["decided_by"], judge)) is not None:
            notes.append(gained_nothing(chosen, instead, judge))
            chosen = instead
    if chosen not in points:  # an unchanged network that is tied with a point of the front
        points = sorted([*points, chosen], key=lambda point: -judge.cost.gain(point["metrics"]))
    place = points.index(chosen)
    better = points[place + 1] if place + 1 < len(points) else None
    return Pick(
        rule,
        chosen,
        (reason, *notes, *_doubts(chosen, better, rule)),
        points[place - 1] if place else None,
        better,
    )


def _first(front: Mapping[str, Any], kept: Sequence[Point], rule: PickRule, judge: FrontRules) -> tuple[Point, str]:
    """Return the point that a rule names before ties are considered, and why it is that point."""
    quality, cost = judge.quality.metric, judge.cost.metric
    if rule.kind == "recommended":
        best = front["best"]
        note = f"; {best['note']}" if best["note"] else ""
        return best_point(front), f"recommended: {best['claim']}{note}"
    if rule.kind == "knee":
        ends = f"trial {kept[0]['trial']} and trial {kept[-1]['trial']}"
        place, distance = knee(kept, judge)
        reason = f"knee: farthest above the line between the ends of the front, {ends} (distance {distance:.3f}"
        return kept[place], f"{reason} of the normalised {quality} and log {cost})"
    if rule.kind == "max_latency":
        reason = f"most {quality} of the front with {_limit(rule)}"
        return max(kept, key=lambda point: judge.quality.gain(point["metrics"])), reason
    word = "least" if judge.cost.direction == "minimize" else "most"
    return kept[0], f"{word} {cost} of the front with {_limit(rule)}"


def _limit(rule: PickRule) -> str:
    """Return a rule's limit as text."""
    if rule.kind == "max_drop":
        return f"{rule.metric} at most {rule.limit:g} below the eager baseline's"
    unit = metric_of(str(rule.metric)).unit
    return f"{rule.metric} {'at most' if rule.kind == 'max_latency' else 'at least'} {rule.limit:g} {unit}".rstrip()


def _excess(point: Point, rule: PickRule, baseline: float | None) -> float:
    """Return by how much a point breaks a rule's limit; NaN if a value is not known."""
    value = point["metrics"].get(rule.metric)
    limit = math.nan if rule.limit is None else rule.limit
    if value is None:
        return math.nan
    if rule.kind == "max_latency":
        return float(value) - limit
    if rule.kind == "min":
        return limit - float(value)
    return math.nan if baseline is None else baseline - limit - float(value)


def _within(points: Sequence[Point], rule: PickRule, front: Mapping[str, Any]) -> list[Point]:
    """Return the points that keep a rule's limit.

    Raises:
        UserError: there is none; the message names the nearest.
    """
    baseline = front["baseline"]["metrics"].get(rule.metric)
    excess = [(_excess(point, rule, baseline), point) for point in points]
    kept = [point for by, point in excess if by <= SLACK]
    if kept:
        return kept
    known = [(by, place) for place, (by, _) in enumerate(excess) if not math.isnan(by)]
    if not known:
        raise UserError(f"{rule.metric} is not known of any point of the front of sweep {front['sweep']!r}")
    nearest = points[min(known)[1]]
    value = metric_of(str(rule.metric)).phrase(nearest["metrics"][rule.metric])
    raise UserError(
        f"no point of the front of sweep {front['sweep']!r} has {_limit(rule)}; the nearest is "
        f"trial {nearest['trial']} with {value}"
    )


def knee(points: Sequence[Point], judge: FrontRules) -> tuple[int, float]:
    """Return the position and the distance of a front's knee.

    The knee is the point farthest from the line between the two ends of the front, on the better side of it: the
    farthest "bulge" in the direction normal to that line (Das, On characterizing the knee of the Pareto curve based on
    normal-boundary intersection, Structural Optimization 18, 1999). Both objectives are scaled so that the ends are 0
    and 1; an objective to minimize whose values are positive enters as its logarithm, so that halving a latency counts
    the same everywhere.

    Args:
        points: of the front, the cheapest first.
        judge: objectives of the front.

    Raises:
        UserError: no point lies above the line between the ends.
    """
    best = [judge.quality.gain(point["metrics"]) for point in points]
    cost = [-judge.cost.gain(point["metrics"]) for point in points]
    if judge.cost.direction == "minimize" and min(cost) > 0:
        cost = [math.log(value) for value in cost]
    wide, high = cost[-1] - cost[0], best[-1] - best[0]
    inner = range(1, len(points) - 1)
    above = [(((best[i] - best[0]) / high - (cost[i] - cost[0]) / wide) / math.sqrt(2), -i) for i in inner]
    if not above:
        raise UserError(f"a knee needs three points at least; the front has {len(points)}{_named(points[0])}")
    distance, place = max(above)
    if distance <= 0:
        nearest = _named(points[-place])
        raise UserError(f"the front has no knee: no point lies above the line between its ends{nearest}")
    return -place, distance


def _named(point: Point) -> str:
    """Return the end of a message that names the nearest point."""
    return f"; the nearest is trial {point['trial']}"


def _tie_notes(first: Point, chosen: Point, tied: Sequence[Point], judge: FrontRules) -> list[str]:
    """Return a sentence about the points whose cost is tied with the first one's."""
    if not tied:
        return []
    cost, quality = judge.cost.metric, judge.quality.metric
    group = sorted({point["trial"] for point in [first, *tied]} - {chosen["trial"]})
    others = ", ".join(f"trial {number}" for number in group)
    return [f"tied in {cost} with {others}: of tied points the one with the most {quality} is taken"]


def _doubts(point: Point, better: Point | None, rule: PickRule) -> list[str]:
    """Return sentences on intervals that reach across the limit: of the point, and of the next better one."""
    if rule.kind == "max_drop" and rule.metric is not None and rule.limit is not None:
        doubt = unsure(rule.metric, rule.limit, point["metrics"])
        return [] if doubt is None else [doubt]
    if rule.kind != "max_latency" or rule.limit is None:
        return []
    doubts = []
    high = point["metrics"].get(f"{LATENCY}_high")
    if high is not None and high > rule.limit:
        doubts.append(f"not sure: {LATENCY} may be {high:.2f} ms (95 %), above the limit")
    low = None if better is None else better["metrics"].get(f"{LATENCY}_low")
    if better is not None and low is not None and low <= rule.limit:
        doubts.append(f"not sure: trial {better['trial']} may keep the limit too, from {low:.2f} ms (95 %)")
    return doubts


def figures_of(metrics: Mapping[str, float | None]) -> dict[str, dict[str, float | None]]:
    """Return metric → ``value`` with the ends ``low`` and ``high`` of its 95 % interval, None where it has none."""
    ends = {f"{name}_{end}" for name in metrics for end in ("low", "high")}
    return {
        name: {"value": value, "low": metrics.get(f"{name}_low"), "high": metrics.get(f"{name}_high")}
        for name, value in metrics.items()
        if name not in ends
    }


def point_line(point: Point, judge: FrontRules) -> str:
    """Return a point in one line: trial, recipe, objectives with intervals."""
    words = []
    for objective in (judge.quality, judge.cost):
        row, metrics = metric_of(objective.metric), point["metrics"]
        low, high = metrics.get(f"{row.name}_low"), metrics.get(f"{row.name}_high")
        interval = "" if low is None or high is None else f" [{row.number(low)}, {row.number(high)}]"
        words.append(row.phrase(metrics.get(row.name)) + interval)
    return f"trial {point['trial']}: {recipe_line(point['recipe'])}: {', '.join(words)}"


def pick_text(chosen: Pick, judge: FrontRules) -> str:
    """Return a choice as text: the point, the reasons, and its neighbours on the front."""
    sides = ((chosen.cheaper, judge.cost), (chosen.better, judge.quality))
    lines = [point_line(chosen.point, judge), *chosen.why]
    for point, objective in sides:
        word = "less" if objective.direction == "minimize" else "more"
        neighbour = "none, it is the end of the front" if point is None else point_line(point, judge)
        lines.append(f"next with {word} {objective.metric}: {neighbour}")
    return "\n".join(lines)
