"""An evaluation as tables for a terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

from paretune.core.console import plain_console, terminal_width
from paretune.core.metrics import CHANGED, change_in
from paretune.core.types import LIMIT
from paretune.evaluation.report import LEVEL, EvaluationReport

MOST_CONFUSIONS = 5


def report_text(report: EvaluationReport) -> str:
    """Return COCO's numbers, the operating point, one line for each class, and the commonest confusions."""
    out = io.StringIO()
    console = plain_console(file=out, width=terminal_width(), force_terminal=sys.stdout.isatty())
    for line in _head(report):
        console.print(line)
    console.print(_numbers(report))
    console.print(_classes(report))
    for line in (*_confusions(report), *(f"note: {note}" for note in report.notes)):
        console.print(line)
    return out.getvalue().rstrip()


def _head(report: EvaluationReport) -> list[str]:
    facts, metrics = report.facts, report.accuracy.metrics()
    what = facts.get("artefact") or f"{facts.get('detections')} against {facts.get('annotations')}"
    split = f", split {facts['split']}" if "split" in facts else ""
    lines = [f"{what}{split}: {report.accuracy.images} images, {report.best.objects} objects"]
    lines += [_map(report), *_change(report)]
    voc = report.voc
    lines.append(
        f"VOC: map50 {_figure(voc['voc10'])} (area under the curve), {_figure(voc['voc07'])} (2007, 11 points)"
    )
    point = [f"{name} {_figure(metrics[name])}" for name in ("precision", "recall", "f1")]
    chosen = "that of the best F1" if metrics["confidence"] == report.best.confidence else "as given"
    lines.append(f"{', '.join(point)} at confidence {_figure(metrics['confidence'])} ({chosen})")
    if metrics["confidence"] != report.best.confidence:
        lines.append(f"best F1 {_figure(report.best.f1)} at confidence {_figure(report.best.confidence)}")
    if (at := report.at) is not None:
        told = {"map": at.averages.map, "recall of 100": at.averages.ar100}
        told |= {"precision": at.point.precision, "recall": at.point.recall, "f1": at.point.f1}
        words = ", ".join(f"{name} {_figure(value)}" for name, value in told.items())
        lines.append(f"at IoU {at.iou:g}: {words} at confidence {_figure(at.point.confidence)}")
    if facts.get("inference_ms_p50") is not None:
        lines.append(f"inference {facts['inference_ms_p50']:.2f} ms (median; nothing else was kept off the device)")
    return lines


def _map(report: EvaluationReport) -> str:
    """Tell map and map50, and where map may lie for any number of images of the kind."""
    figures = [_figure(report.accuracy.metrics()[name]) for name in ("map", "map50")]
    bounds, sure, high = report.interval, "", ""
    if bounds is not None:
        sure = f" [{bounds[0]:.3f}, {bounds[1]:.3f}] ({LEVEL:.0%}, from halves of the images)"
        if bounds[1] < (report.accuracy.map or 0.0):
            high = "; the figure itself is too high: there are few objects of a class"
    return f"map {figures[0]}{sure}, map50 {figures[1]}{high}"


def _change(report: EvaluationReport) -> list[str]:
    """Tell what an evaluation has more than another of the same images, and whether that is more than their luck."""
    if report.change is None:
        return []
    told = f"against {report.facts['against']}"
    ends = {name: found for name in CHANGED if (found := change_in(report.change.figures, name)) is not None}
    if not ends:
        return [f"{told}: not known, {next(iter(report.change.reasons.values()))}"]
    words = ", ".join(f"{name} {middle:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (low, middle, high) in ends.items())
    low, _, high = ends["map"]
    sure = (
        "the first is more accurate" if low > 0 else "the first is less accurate" if high < 0 else "no sure difference"
    )
    return [f"{told}: {words} ({LEVEL:.0%}): {sure}"]


def _numbers(report: EvaluationReport) -> Any:
    from rich.table import Table

    metrics = report.accuracy.metrics()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("COCO")
    for name in ("all", "small", "medium", "large"):
        table.add_column(name, justify="right")
    parts = {
        "map 0.50:0.95": ("map", "map_small", "map_medium", "map_large"),
        "recall of 100": ("ar100", "ar_small", "ar_medium", "ar_large"),
        "recall of 10": ("ar10",),
        "recall of 1": ("ar1",),
        "map 0.50": ("map50",),
        "map 0.75": ("map75",),
    }
    for head, names in parts.items():
        table.add_row(head, *(_figure(metrics[name]) for name in names))
    if report.limit != LIMIT:
        table.add_row(f"recall of {report.limit}", _figure(report.ar_limit))
    return table


def _classes(report: EvaluationReport) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    columns = ("objects", "map", "VOC ap", "precision", "recall", "F1", "best F1", "at")
    for name in columns:
        table.add_column(name, justify="right")
    if report.at is not None:
        table.add_column(f"ap {report.at.iou:g}", justify="right")
    for name, entry in report.classes.items():
        chosen, best = entry.chosen, entry.best
        values: tuple[float | None, ...] = (
            entry.ap,
            entry.voc10,
            chosen.precision,
            chosen.recall,
            chosen.f1,
            best.f1,
            best.confidence,
        )
        values += () if report.at is None else (report.at.per_class[name],)
        table.add_row(name, str(best.objects), *(_figure(value) for value in values))
    return table


def _confusions(report: EvaluationReport) -> list[str]:
    names = [*report.classes]
    matrix = report.confusion.matrix
    pairs = [
        (int(matrix[row, column]), names[row], names[column])
        for row in range(len(names))
        for column in range(len(names))
        if row != column and matrix[row, column]
    ]
    pairs.sort(reverse=True)
    lines = [f"{count} x {true} taken for {found}" for count, true, found in pairs[:MOST_CONFUSIONS]]
    missed, invented = int(matrix[:-1, -1].sum()), int(matrix[-1, :-1].sum())
    return [*lines, f"{missed} objects missed, {invented} found where there is none"]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
