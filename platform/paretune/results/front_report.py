"""The written report of a sweep: what was searched, what was found, what it cost, and what to deploy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.baselines import BASELINES
from paretune.core.metrics import UNKNOWN, change_in, in_order
from paretune.reports.front_plot import axes_of
from paretune.reports.tables import Table

BASE_NAMES = {"eager": "the eager baseline", "onnxruntime": "the baseline on ONNX Runtime in fp32"}
"""Baseline → its name in a sentence."""
COLUMNS = ("map", "latency_ms", "size_mib", "params")
"""Metrics in the table of a front, with the objectives."""
MOST_REASONS = 10
"""Most reasons of failures that are listed."""
HOUR, LONG = 3600.0, 90


def report_parts(data: Mapping[str, Any], artefacts: Mapping[str, str] | None = None) -> list[Table]:
    """Return the chapters of the report.

    Args:
        data: result of ``page_data.page_data``.
        artefacts: target → folder of the recommended artefact; None leaves the folders out.
    """
    return [
        Table("What was searched", notes=_searched(data)),
        *(_found(data, target) for target in data["targets"]),
        _cost(data),
        *_advice(data),
        *_failures(data),
        Table("What to deploy", notes=tuple(_deployed(data, target, artefacts or {}) for target in data["targets"])),
    ]


def verdict(data: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """Return the answer for one target in one sentence."""
    best = target["best"]
    if best is None:
        known = target["baseline"] is not None
        return "No trial keeps the constraints." if known else "The eager baseline is not measured yet."
    row = _row(data, target, best["trial"])
    figures = [_figure(name, row["metrics"]) for name in dict.fromkeys(axes_of(data["objectives"]))]
    figures += [f"{gain} times as fast as {BASE_NAMES[base]}" for base, gain in _gains(target, best["trial"]).items()]
    note = f" {best['note'][0].upper()}{best['note'][1:]}." if best["note"] else ""
    return f"Trial {best['trial']} ({row['recipe']}) is the {best['claim']}: {'; '.join(figures)}.{note}"


def report_markdown(data: Mapping[str, Any], parts: Sequence[Table]) -> str:
    """Return the report as Markdown."""
    blocks = [f"# Sweep {_escaped(data['sweep'])}", _status(data)]
    for part in parts:
        blocks.append(f"## {_escaped(part.title)}")
        if part.rows:
            ruler = [":--" if part.is_words(column) else "--:" for column in range(len(part.head))]
            lines = [part.head, ruler, *part.rows]
            blocks.append("\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines))
        if part.notes:
            blocks.append("\n".join(f"- {_escaped(note)}" for note in part.notes))
    return "\n\n".join(blocks) + "\n"


def report_html(data: Mapping[str, Any], parts: Sequence[Table]) -> str:
    """Return the report as a page that needs no other file."""
    from paretune.reports.html import report_page

    return report_page(f"Sweep {data['sweep']}", [Table("", notes=(_status(data),)), *parts])


def _status(data: Mapping[str, Any]) -> str:
    if data["ended"]:
        return f"The search ended before its last trial: {data['ended']}."
    return "The sweep is finished." if data["finished"] else "The sweep is not finished; this is what is known so far."


def _searched(data: Mapping[str, Any]) -> tuple[str, ...]:
    rows = [row for row in data["trials"] if row["target"] == data["targets"][0]["name"]]
    states = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    facts = [f"{name}: {text}" for name, text in data["about"].items()]
    targets = ", ".join(f"{target['name']} ({target['description']})" for target in data["targets"])
    return (*facts, f"targets: {targets}", f"trials: {len(rows)}, of which {counts}", *data["notes"])


def _found(data: Mapping[str, Any], target: Mapping[str, Any]) -> Table:
    """Return the front of a target as a table, with its verdict and what limits the trust in it."""
    columns = in_order([*COLUMNS, *data["objectives"]])
    shown = [*target["front"], *([target["baseline"]] if target["baseline"] not in (None, *target["front"]) else [])]
    rows = []
    for number in shown:
        row, gains = _row(data, target, number), _gains(target, number)
        values = [column.text(row["metrics"].get(column.name)) for column in columns]
        rows.append(
            (
                str(number),
                row["recipe"],
                *values,
                *(gains.get(base, UNKNOWN).replace(" ", "\n", 1) for base in BASELINES),
            )
        )
    heads = [f"{_title(column.name)}, {column.unit}" if column.unit else column.name for column in columns]
    ties = [f"trial {trial} is tied with {', '.join(map(str, others))}" for trial, others in target["ties"].items()]
    volume = target["hypervolume"]
    known = f"hypervolume {volume:.4f}" if volume is not None else f"no hypervolume: {target['hypervolume_unknown']}"
    last = "measured interleaved at the end" if target["decided_by"] == "comparison" else "of single measurements"
    notes = (verdict(data, target), f"{len(target['front'])} trials are on the front, {last}; {known}", *ties)
    last_notes = (*target["notes"], "x: times as fast as a baseline, with 95 % intervals")
    head = ("trial", "recipe", *heads, "x eager", "x ONNX RT")
    title = f"What was found on {target['name']}"
    return Table(title, head, tuple(rows), (*notes, *last_notes), words=("recipe",))


def _cost(data: Mapping[str, Any]) -> Table:
    """Return the seconds of all stages."""
    cost, total = data["cost"], data["cost"]["trials"] or 1.0
    stages = sorted(data["stages"], key=lambda stage: -stage["seconds"])
    rows = tuple(
        (
            one["stage"],
            _duration(one["seconds"]),
            f"{one['seconds'] / total:.0%}",
            str(one["trials"]),
            str(one["reused"]),
        )
        for one in stages
    )
    trained = (
        f"training of the baseline: {_duration(cost['training'])}" if cost["training"] else "no training of a baseline"
    )
    notes = (f"trials: {_duration(cost['trials'])} together, {_duration(cost['clock'])} on the clock", trained)
    return Table("What it cost", ("stage", "time", "share", "trials", "reused"), rows, notes)


def _advice(data: Mapping[str, Any]) -> list[Table]:
    if not data["advice"]:
        return []
    rows = tuple(
        (
            one["knob"],
            f"{one['predicted']:.2f}",
            UNKNOWN if one["speedup"] is None else f"{one['speedup']:.2f} [{one['low']:.2f}, {one['high']:.2f}]",
            one["reason"] if one["helped"] is None else ("helped" if one["helped"] else "did not help"),
        )
        for one in data["advice"]
    )
    head = ("advice", "predicted, times as fast", "measured", "outcome")
    return [Table("What came of the advice", head, rows, words=("outcome",))]


def _failures(data: Mapping[str, Any]) -> list[Table]:
    """Return the reasons for which trials failed or were stopped, the most frequent first."""
    ended = [
        row for row in data["trials"] if row["state"] != "complete" and row["target"] == data["targets"][0]["name"]
    ]
    reasons = Counter(
        f"{row['state']}: {next(iter((row['failure'] or '').splitlines()), 'unknown reason')}" for row in ended
    )
    rows = tuple((str(count), reason[:300]) for reason, count in reasons.most_common(MOST_REASONS))
    more = len(reasons) - len(rows)
    notes = (f"and {more} more reasons",) if more > 0 else ()
    return [Table("What failed or was stopped", ("trials", "reason"), rows, notes, words=("reason",))] if rows else []


def _deployed(data: Mapping[str, Any], target: Mapping[str, Any], artefacts: Mapping[str, str]) -> str:
    """Return what to deploy on a target, and what that gives up."""
    best = target["best"]
    if best is None:
        return f"{target['name']}: nothing yet. {verdict(data, target)}"
    folder = artefacts.get(target["name"], best["artefact"])
    loss = ""
    if (change := change_in(_row(data, target, best["trial"])["metrics"], "map")) is not None:
        low, middle, high = change
        loss = f" It changes map by {middle:+.3f} [{low:+.3f}, {high:+.3f}] against the eager baseline."
    tied = target["ties"].get(str(best["trial"]))
    tie = f" In latency it is tied with trial {', '.join(map(str, tied))}." if tied else ""
    return f"{target['name']}: {verdict(data, target)}{loss}{tie} Its artefact is {folder}."


def _row(data: Mapping[str, Any], target: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    rows: Sequence[Mapping[str, Any]] = data["trials"]
    return next(row for row in rows if row["number"] == number and row["target"] == target["name"])


def _figure(name: str, metrics: Mapping[str, float]) -> str:
    """Return a metric with its interval and its unit."""
    (row,) = in_order([name])
    low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    ends = "" if low is None or high is None or not low < high else f" [{row.number(low)}, {row.number(high)}]"
    unit = f" {row.unit}" if row.unit else ""
    return f"{_title(name)} {row.text(metrics.get(name))}{unit}{ends}"


def _title(name: str) -> str:
    """Return a metric's name without its unit."""
    unit = in_order([name])[0].unit.lower()
    return name.removesuffix(f"_{unit}") if unit else name


def _gains(target: Mapping[str, Any], number: int) -> dict[str, str]:
    """Return baseline → speed-up of a trial with its interval; the trial itself is left out."""
    rows = target["gains"].get(str(number), {})
    known = {base: row for base, row in rows.items() if base in BASE_NAMES and row["speedup"] is not None}
    return {
        base: f"{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        for base, row in known.items()
        if row["low"] != row["high"]
    }


def _duration(seconds: float) -> str:
    """Return seconds as text in the unit that suits them."""
    if seconds < LONG:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < LONG * 60 else f"{seconds / HOUR:.1f} h"


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    line = " ".join(text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split())
    for character in "\\`*_[]|#":
        line = line.replace(character, f"\\{character}")
    return line
