"""What is shown in a terminal: the front as a table, a line for each trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paretune.core.baselines import BASELINES, EAGER
from paretune.core.console import table_text
from paretune.core.metrics import UNKNOWN, Metric, change_in, change_names, in_order
from paretune.core.recipe_text import recipe_line
from paretune.search.pareto_front import FrontRules, pareto_front
from paretune.storage.trial_record import Record

if TYPE_CHECKING:
    from rich.table import Table

LINE = ("map", "map50", "latency_ms")
"""Metrics in the line of a trial, with the objectives."""
COLUMNS = (*LINE, "size_mib", "params")
"""Metrics in the table of a front, with the objectives."""


def figures_line(metrics: Mapping[str, float | None]) -> str:
    """Return a network's accuracy in one line; what is unknown is a dash."""
    words = [f"{name} {_number(metrics.get(name), 3)}" for name in ("map", "map50", "precision", "recall", "f1")]
    sure = metrics.get("confidence")
    return ", ".join(words) + ("" if sure is None else f" at confidence {sure:.2f}")


def trial_line(number: int, records: Sequence[Record], judge: FrontRules, budget: int) -> str:
    """Return what one finished trial says: how far the sweep is, what came of it, whether it is on the front.

    Args:
        number: of the trial.
        records: of all trials so far, on one scale.
        judge: objectives and constraints.
        budget: trials of the whole sweep.
    """
    record = next(r for r in records if r.number == number)
    failed = sum(r.state == "failed" for r in records)
    head = f"trial {number} ({len(records)}/{budget} done{f', {failed} failed' if failed else ''})"
    recipe = recipe_line(record.recipe)
    if record.state == "failed":
        reason = next(iter((record.failure or "").splitlines()), "unknown reason")
        return f"{head}: {recipe}: FAILED: {reason[:160]}"
    m, ms = record.metrics, record.metrics.get("latency_ms")
    rows = in_order([*LINE, *(objective.metric for objective in judge.objectives)])
    figures = ", ".join(row.phrase(m.get(row.name)) for row in rows)
    allowed = [r for r in records if r.state == "complete" and judge.feasible(r)]
    front = [allowed[i].number for i in pareto_front([r.metrics for r in allowed], judge.objectives)]
    base = next((r.metrics.get("latency_ms") for r in records if r.number == EAGER), None)
    gain = f" ({base / ms:.1f}x eager)" if base and number and ms else ""
    mark = f"; on the front of {len(front)}" if number in front else ""
    mark = mark if judge.feasible(record) else "; breaks a constraint"
    sure = " (unstable)" if (record.facts.get("duet") or {}).get("unstable") else ""
    return f"{head}: {recipe}: {figures}{sure}{gain}{mark}"


def time_left(records: Sequence[Record], budget: int) -> str:
    """Return an estimate of the time that is left, from the trials done, the two baselines apart.

    Counted is the time in which any trial ran: trials at the same time share it, and a pause is none.
    """
    mine = sorted((r.started, r.finished) for r in records if r.origin != "baseline")
    left = budget - len(records)
    if not mine or left <= 0:
        return ""
    busy, until = 0.0, 0.0
    for start, end in mine:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    minutes = left * busy / len(mine) / 60
    return f", about {minutes:.0f} min left" if minutes >= 1.5 else ", about a minute left"


def front_table(front: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> str:
    """Return a front as a table: objectives, the usual metrics, and speed-ups against both baselines.

    Args:
        front: as ``front.front_object`` returns it.
        comparison: as ``finalists.compare_front`` returns it; None before the end of a sweep.
    """
    from rich import box
    from rich.table import Table

    baseline = front["baseline"]
    said = ", ".join(f"{direction} {metric}" for metric, direction in front["objectives"].items())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    tested = baseline is not None and baseline.get("test") is not None
    rows = in_order([*COLUMNS, *front["objectives"]])
    for name in ("trial", "recipe", *_heads(rows, front["objectives"], tested=tested)):
        recipe = name == "recipe"
        table.add_column(name, justify="left" if recipe else "right", no_wrap=not recipe, overflow="fold")
    for point in front["front"]:
        table.add_row(*_row(point, rows, front, comparison))
    if baseline is not None and baseline["trial"] not in [p["trial"] for p in front["front"]]:
        table.add_section()
        table.add_row(*_row(baseline, rows, front, comparison))
    return _titled(f"front of {front['sweep']} on target {front['target']}: {said}", table)


def advice_table(outcomes: Sequence[Mapping[str, Any]]) -> str:
    """Render what came of advice as a table: predicted against measured, what did not help included.

    Args:
        outcomes: as ``promises.Outcome.tree`` returns them.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("advice", "trial", "against", "predicted", "measured", "outcome"):
        words = name in {"advice", "outcome"}
        table.add_column(name, justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for one in outcomes:
        trials = [UNKNOWN if one[name] is None else str(one[name]) for name in ("trial", "against")]
        measured = None if one["speedup"] is None else one
        table.add_row(one["knob"], *trials, f"{one['predicted']:.2f}", _gain(measured), outcome_words(one))
    shown = _titled("\nadvice that was tried first: times as fast from image to boxes", table)
    by = "measured: latency of what the advice was for / of the trial, interleaved in one run, with 95 % intervals"
    return f"{shown}\n{by}\n"


def outcome_words(outcome: Mapping[str, Any]) -> str:
    """Return in a few words what came of a piece of advice."""
    known = {True: "helped", False: "did not help", None: outcome["reason"]}
    return str(known[outcome["helped"]])


def _titled(title: str, table: Table) -> str:
    return "\n".join([title, *table_text(table).splitlines()]).rstrip()


def _differs(row: Metric, objectives: Mapping[str, str]) -> bool:
    """Return whether the column of a metric is followed by one of its differences to the baseline's."""
    return row.compared and (row.name == "map" or row.name in objectives)


def _heads(rows: Sequence[Metric], objectives: Mapping[str, str], *, tested: bool) -> list[str]:
    """Return the heads of the columns of figures."""
    heads = []
    for row in rows:
        heads.append(row.column)
        heads += [f"Δ {row.name}"] if _differs(row, objectives) else []
        heads += ["Δ map test"] if row.name == "map" and tested else []
        heads += ["x eager", "x ONNX RT"] if row.name == "latency_ms" else []
    return heads


def _row(
    point: Mapping[str, Any], rows: Sequence[Metric], front: Mapping[str, Any], comparison: Mapping[str, Any] | None
) -> list[str]:
    """Return the cells of a point, as ``_heads`` names their columns."""
    baseline, m = front["baseline"] or {}, point["metrics"]
    gains = ((comparison or {}).get("trials") or {}).get(str(point["trial"]), {})
    tested = baseline.get("test")
    cells = [str(point["trial"]), recipe_line(point["recipe"])]
    for row in rows:
        value = row.text(m.get(row.name))
        cells.append("\n".join([value, *marks(point)]) if row.name == "latency_ms" else value)
        if _differs(row, front["objectives"]):
            cells.append(_change(row.name, m, baseline.get("metrics", {})))
        if row.name == "map" and tested is not None:
            cells.append(_change("map", (point["test"] or {"metrics": {}})["metrics"], tested["metrics"]))
        if row.name == "latency_ms":
            cells += [_gain(gains.get(name), under=True) for name in BASELINES]
    return cells


def _gain(row: Mapping[str, Any] | None, *, under: bool = False) -> str:
    """Return a speed-up with its interval beside or under it; ``=`` before it says that it is a tie."""
    if row is None:
        return UNKNOWN
    if row["low"] == row["high"]:  # the baseline itself
        return f"{row['speedup']:.2f}"
    tie = "= " if row["verdict"] == "tied" else ""
    between = "\n" if under else " "
    return f"{tie}{row['speedup']:.2f}{between}[{row['low']:.2f}, {row['high']:.2f}]"


def _number(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def _change(metric: str, metrics: Mapping[str, float | None], base: Mapping[str, float | None]) -> str:
    """Return the difference of a metric to the baseline's, and its interval on the next line if it is known."""
    value, before = metrics.get(metric), base.get(metric)
    if value is None or before is None:
        return UNKNOWN
    low, _, high = change_in(metrics, metric) or (0.0, 0.0, 0.0)
    return f"{value - before:+.3f}" + (f"\n[{low:+.3f}, {high:+.3f}]" if low < high else "")


def marks(point: Mapping[str, Any]) -> list[str]:
    """Return the marks of a point: whether its latency is unstable, and with which points it is tied."""
    tied = ", ".join(map(str, point["tied_with"]))
    return [*(["~"] if point["unstable"] else []), *([f"= {tied}"] if tied else [])]


def doubts(front: Mapping[str, Any], comparison: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each kind of mark in a front's table, and for what the front was not decided by."""
    points = front["front"]
    told = []
    if any(point["tied_with"] for point in points):
        told.append("=: the comparison cannot tell which of these trials is faster")
    if any(point["unstable"] for point in points):
        told.append("~: unstable, the latency is known less well than is wanted")
    if front["decided_by"] == "trials" and comparison is None:
        told.append("not compared yet: the front is that of single trials until the sweep ends")
    if left_out := (comparison or {}).get("left_out"):
        told.append(f"not compared: {', '.join(f'trial {number} ({why})' for number, why in left_out.items())}")
    if (comparison or {}).get("no_test"):
        told.append(f"accuracy on test is not known: {(comparison or {})['no_test']}")
    return told


def unsure(metric: str, max_drop: float, metrics: Mapping[str, float | None]) -> str | None:
    """Say that a loss may be larger than is allowed; None where it surely is not, or its interval is not known."""
    smallest, _, largest = change_names(metric)
    low, high = metrics.get(smallest), metrics.get(largest)
    if low is None or high is None or low >= -max_drop:
        return None
    told = f"not sure: {metric} changed by {low:+.3f} to {high:+.3f} (95 %), and may fall by {max_drop:g}"
    return f"{told}; `constraints: {{{smallest}: {{min: {-max_drop:g}}}}}` asks for certainty"
