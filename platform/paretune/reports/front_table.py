"""The front and the advice that was tried, as tables for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.metrics import change_in
from paretune.core.recipe_text import recipe_line
from paretune.reports.tables import UNKNOWN, Table, number

Metrics = Mapping[str, float | None]


def front_table(
    front: Mapping[str, Any], comparison: Mapping[str, Any] | None, apart: Sequence[Mapping[str, Any]] = ()
) -> Table:
    """Return a row for each point of a front, with speed-ups over both baselines and differences of map.

    Args:
        front: result of ``front.front_object``.
        comparison: result of ``finalists.compare_front``; None before the end of a sweep.
        apart: points that follow the front, each left out if it is on it.
    """
    baseline, points = front["baseline"], front["front"]
    aims = ", ".join(f"{direction} {metric}" for metric, direction in front["objectives"].items())
    on_test = ["Δ map test"] if is_tested(front) else []
    others = [point for point in apart if point["trial"] not in [one["trial"] for one in points]]
    return Table(
        f"front of {front['sweep']} on target {front['target']}: {aims}",
        ("trial", "recipe", "map", "Δ map", *on_test, "map50", "ms", "x eager", "x ONNX RT", "MiB", "params"),
        tuple(_row(point, baseline, comparison) for point in [*points, *others]),
        words=("recipe",),
        apart=len(others),
    )


def is_tested(front: Mapping[str, Any]) -> bool:
    """Return whether the front was evaluated on the split ``test`` too."""
    return (front["baseline"] or {}).get("test") is not None


def _row(
    point: Mapping[str, Any], baseline: Mapping[str, Any] | None, comparison: Mapping[str, Any] | None
) -> tuple[str, ...]:
    metrics, base = point["metrics"], baseline["metrics"] if baseline else {}
    gains = ((comparison or {}).get("trials") or {}).get(str(point["trial"]), {})
    test = (baseline or {}).get("test")
    on_test = [] if test is None else [_change((point["test"] or {"metrics": {}})["metrics"], test["metrics"])]
    params = metrics.get("params")
    return (
        str(point["trial"]),
        recipe_line(point["recipe"]),
        number(metrics.get("map"), ".3f"),
        _change(metrics, base),
        *on_test,
        number(metrics.get("map50"), ".3f"),
        "\n".join([number(metrics.get("latency_ms"), ".2f"), *_marks(point)]),
        _gain(gains.get("eager"), "\n"),
        _gain(gains.get("onnxruntime"), "\n"),
        number(metrics.get("size_mib"), ".2f"),
        UNKNOWN if params is None else f"{params / 1e6:.2f} M",
    )


def _change(metrics: Metrics, base: Metrics) -> str:
    """Return the difference of map to the baseline and, in a second line, its interval if that is known."""
    value, before = metrics.get("map"), base.get("map")
    if value is None or before is None:
        return UNKNOWN
    low, _, high = change_in(metrics, "map") or (0.0, 0.0, 0.0)
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
    )
