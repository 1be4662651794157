"""Lines and tables for the terminal: the front, a trial, accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.metrics import change_names, in_order, metric_of
from paretune.core.recipe_text import recipe_line
from paretune.reports import front_table as tables
from paretune.reports.front_table import doubts
from paretune.reports.tables import number as figure
from paretune.search.progress import SweepProgress

LINE = ("map", "map50", "latency_ms")
"""Metrics in the line of a trial, with the objectives."""
__all__ = ["advice_table", "doubts", "figures_line", "front_table", "time_left", "trial_line", "unsure", "words_left"]


def figures_line(metrics: Mapping[str, float | None]) -> str:
    """Return the accuracy of a network in one line, with a dash for each unknown figure."""
    words = [f"{name} {figure(metrics.get(name), '.3f')}" for name in ("map", "map50", "precision", "recall", "f1")]
    sure = metrics.get("confidence")
    return ", ".join(words) + ("" if sure is None else f" at confidence {sure:.2f}")


def trial_line(number: int, progress: SweepProgress, budget: int) -> str:
    """Return a line on a finished trial: progress of the sweep, its figures, whether it is on the front.

    Args:
        number: the trial's number.
        progress: of the sweep, with this trial.
        budget: number of trials of the whole sweep.
    """
    record, failed, judge = progress.record(number), progress.failed, progress.judge
    head = f"trial {number} ({progress.done}/{budget} done{f', {failed} failed' if failed else ''})"
    recipe = recipe_line(record.recipe)
    if record.state == "failed":
        reason = next(iter((record.failure or "").splitlines()), "unknown reason")
        return f"{head}: {recipe}: FAILED: {reason[:160]}"
    if record.state == "stopped":
        return f"{head}: {recipe}: stopped early: {record.stop_reason}"
    m, ms = record.metrics, record.metrics.get("latency_ms")
    rows = in_order([*LINE, *(objective.metric for objective in judge.objectives)])
    figures = ", ".join(row.phrase(m.get(row.name)) for row in rows)
    front, base = progress.front, progress.eager_ms
    gain = f" ({base / ms:.1f}x eager)" if base and number and ms else ""
    mark = f"; on the front of {len(front)}" if number in front else ""
    mark = mark if judge.feasible(record) else "; breaks a constraint"
    sure = " (unstable)" if (record.facts.get("duet") or {}).get("unstable") else ""
    return f"{head}: {recipe}: {figures}{sure}{gain}{mark}"


def further_target(number: int, target: str, progress: SweepProgress) -> str:
    """Return the end of a line on a finished trial: its cost on a further target, and whether it is on that front.

    Args:
        number: the trial's number.
        target: name of the target.
        progress: of the sweep on the target, with this trial.
    """
    record, judge = progress.record(number), progress.judge
    if record.state != "complete":
        return ""
    cost = metric_of(judge.cost.metric)
    mark = f", on the front of {len(progress.front)}" if number in progress.front else ""
    mark = mark if judge.feasible(record) else ", breaks a constraint"
    return f"; {target}: {cost.phrase(record.metrics.get(cost.name))}{mark}"


def time_left(progress: SweepProgress, budget: int, limit: float = math.inf) -> str:
    """Return an estimate of the remaining time from the finished trials, without the two baselines.

    It rests on the time in which at least one trial ran: trials at the same time share it, and pauses do not count.

    Args:
        progress: of the sweep.
        budget: number of trials.
        limit: seconds that the limits in hours leave.
    """
    left = budget - progress.done
    if not progress.sampled or left <= 0 or limit <= 0:
        return ""
    return f", {words_left(min(limit, left * progress.busy.seconds / progress.sampled))}"


def words_left(seconds: float) -> str:
    """Return an expected time in words."""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else "about a minute left"


def front_table(front: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> str:
    """Return a front as text, with the eager baseline in the last row.

    Args:
        front: result of ``front.front_object``.
        comparison: result of ``finalists.compare_front``; None before the end of a sweep.
    """
    return tables.front_table(front, comparison, [front["baseline"]] if front["baseline"] else []).text()


def advice_table(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """Return predicted and measured speed-up of each piece of advice as text.

    Args:
        outcomes: results of ``promises.Outcome.tree``.
    """
    table = tables.advice_table(outcomes)
    return "\n".join(["", table.text(), *table.notes, ""])


def unsure(metric: str, max_drop: float, metrics: Mapping[str, float | None]) -> str | None:
    """Return a warning that a loss may be larger than allowed; None if it surely is not, or its interval is unknown."""
    smallest, _, largest = change_names(metric)
    low, high = metrics.get(smallest), metrics.get(largest)
    if low is None or high is None or low >= -max_drop:
        return None
    warning = f"not sure: {metric} changed by {low:+.3f} to {high:+.3f} (95 %), and may fall by {max_drop:g}"
    return f"{warning}; `constraints: {{{smallest}: {{min: {-max_drop:g}}}}}` asks for certainty"
