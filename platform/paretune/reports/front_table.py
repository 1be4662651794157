"""The front and the advice that was tried, as tables for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.baselines import BASELINES
from paretune.core.metrics import UNKNOWN, Metric, change_in, in_order, metric_of
from paretune.core.recipe_text import recipe_line
from paretune.reports.tables import Table

Metrics = Mapping[str, float | None]
COLUMNS = ("map", "map50", "latency_ms", "size_mib", "params")
"""Metrics in the table of a front, with the objectives."""
SPARE = ("params", "MiB", "map50", "Δ map test", "x ONNX RT", "Δ map", "x eager")
"""Columns that a narrow terminal leaves out, unless they are objectives'; the first one first."""


def front_table(
    front: Mapping[str, Any], comparison: Mapping[str, Any] | None, apart: Sequence[Mapping[str, Any]] = ()
) -> Table:
    """Return a row for each point of a front, with its objectives, the usual metrics and speed-ups over both baselines.

    Args:
        front: result of ``front.front_object``.
        comparison: result of ``finalists.compare_front``; None before the end of a sweep.
        apart: points that follow the front, each left out if it is on it.
    """
    points, columns = front["front"], in_order([*COLUMNS, *front["objectives"]])
    aims = ", ".join(f"{direction} {metric}" for metric, direction in front["objectives"].items())
    others = [point for point in apart if point["trial"] not in [one["trial"] for one in points]]
    return Table(
        f"front of {front['sweep']} on target {front['target']}: {aims}",
        ("trial", "recipe", *_heads(columns, front)),
        tuple(_row(point, columns, front, comparison) for point in [*points, *others]),
        words=("recipe",),
        apart=len(others),
        spare=tuple(head for head in SPARE if head not in [metric_of(name).column for name in front["objectives"]]),
    )


def is_tested(front: Mapping[str, Any]) -> bool:
    """Return whether the front was evaluated on the split ``test`` too."""
    return (front["baseline"] or {}).get("test") is not None


def _has_difference(column: Metric, objectives: Mapping[str, str]) -> bool:
    """Return whether the difference of a metric to the baseline's follows its column."""
    return column.compared and (column.name == "map" or column.name in objectives)


def _heads(columns: Sequence[Metric], front: Mapping[str, Any]) -> list[str]:
    """Return the heads of the columns of numbers."""
    heads = []
    for column in columns:
        heads.append(column.column)
        heads += [f"Δ {column.name}"] if _has_difference(column, front["objectives"]) else []
        heads += ["Δ map test"] if column.name == "map" and is_tested(front) else []
        heads += ["x eager", "x ONNX RT"] if column.name == "latency_ms" else []
    return heads


def _row(
    point: Mapping[str, Any],
    columns: Sequence[Metric],
    front: Mapping[str, Any],
    comparison: Mapping[str, Any] | None,
) -> tuple[str, ...]:
    """Return the cells of a point under the heads of ``_heads``."""
    metrics, baseline = point["metrics"], front["baseline"] or {"metrics": {}}
    gains = ((comparison or {}).get("trials") or {}).get(str(point["trial"]), {})
    cells = [str(point["trial"]), recipe_line(point["recipe"])]
    for column in columns:
        value = column.text(metrics.get(column.name))
        cells.append("\n".join([value, *_marks(point)]) if column.name == "latency_ms" else value)
        if _has_difference(column, front["objectives"]):
            cells.append(_change(column.name, metrics, baseline["metrics"]))
        if column.name == "map" and is_tested(front):
            cells.append(_change("map", (point["test"] or {"metrics": {}})["metrics"], baseline["test"]["metrics"]))
        if column.name == "latency_ms":
            cells += [_gain(gains.get(name), "\n") for name in BASELINES]
    return tuple(cells)


def _change(name: str, metrics: Metrics, base: Metrics) -> str:
    """Return the difference of a metric to the baseline's and, in a second line, its interval if that is known."""
    value, before = metrics.get(name), base.get(name)
    if value is None or before is None:
        return UNKNOWN
    low, _, high = change_in(metrics, name) or (0.0, 0.0, 0.0)
    return f"{value - before:+.3f}" + (f"\n[{low:+.3f}, {high:+.3f}]" if low < high else "")


def _gain(row: Mapping[str, Any] | None, between: str) -> str:
    """Return a speed-up and its interval; ``=`` before it means a tie."""
    if row is None or row["speedup"] is None:
        return UNKNOWN
    if row["low"] == row["high"]:  # the baseline itself
        return f"{row['speedup']:.2f}"
    tie = "= " if row["verdict"] == "tied" else ""
    return f"{tie}{row['speedup']:.2f}{between}[{row['low']:.2f}, {row['high']:.2f}]"


def _marks(point: Mapping[str, Any]) -> list[str]:
    """Return ``~`` if the latency of a point is unstable, and the points with which it is tied."""
    tied = ", ".join(map(str, point["tied_with"]))
    return [*(["~"] if point["unstable"] else []), *([f"= {tied}"] if tied else [])]


def doubts(front: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each kind of mark in the table of a front, and for all that the front was not decided by."""
    points, facts = front["front"], comparison or {}
    lines = []
    if any(point["tied_with"] for point in points):
        lines.append("=: the comparison cannot tell which of these trials is faster")
    if any(point["unstable"] for point in points):
        lines.append("~: unstable, the latency is known less well than is wanted")
    if front["decided_by"] == "trials" and comparison is None:
        lines.append("not compared yet: the front is that of single trials until the sweep ends")
    if left_out := facts.get("left_out"):
        lines.append(f"not compared: {', '.join(f'trial {number} ({why})' for number, why in left_out.items())}")
    if facts.get("no_test"):
        lines.append(f"accuracy on test is not known: {facts['no_test']}")
    return lines


def advice_table(outcomes: Sequence[Mapping[str, Any]]) -> Table:
    """Return predicted and measured speed-up of each piece of advice that was tried first.

    Args:
        outcomes: results of ``promises.Outcome.tree``.
    """
    words = {True: "helped", False: "did not help"}
    return Table(
        "advice that was tried first: times as fast from image to boxes",
        ("advice", "trial", "against", "predicted", "measured", "outcome"),
        tuple(
            (
                one["knob"],
                *(UNKNOWN if one[name] is None else str(one[name]) for name in ("trial", "against")),
                f"{one['predicted']:.2f}",
                _gain(one, " "),
                words.get(one["helped"]) or str(one["reason"]),
            )
            for one in outcomes
        ),
        ("measured: latency of what the advice was for / of the trial, interleaved in one run, with 95 % intervals",),
        words=("advice", "outcome"),
        spare=("against", "predicted"),
    )
