"""The report of an evaluation as text for the terminal."""

from __future__ import annotations

from paretune.core.metrics import CHANGED, change_in
from paretune.core.types import LIMIT
from paretune.evaluation.report import LEVEL, EvaluationReport
from paretune.reports.tables import Table, number

MOST_CONFUSIONS = 5
"""Pairs of classes that are listed."""


def report_text(report: EvaluationReport) -> str:
    """Return COCO's numbers, the operating point, a line for each class, and the commonest confusions."""
    notes = [f"note: {note}" for note in report.notes]
    return "\n".join([*_head(report), _numbers(report), _classes(report), *_confusions(report), *notes])


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
        figures = {"map": at.averages.map, "recall of 100": at.averages.ar100}
        figures |= {"precision": at.point.precision, "recall": at.point.recall, "f1": at.point.f1}
        words = ", ".join(f"{name} {_figure(value)}" for name, value in figures.items())
        lines.append(f"at IoU {at.iou:g}: {words} at confidence {_figure(at.point.confidence)}")
    if facts.get("inference_ms_p50") is not None:
        lines.append(f"inference {facts['inference_ms_p50']:.2f} ms (median; nothing else was kept off the device)")
    return lines


def _map(report: EvaluationReport) -> str:
    """Return map, its interval for images of the same kind, and map50."""
    figures = [_figure(report.accuracy.metrics()[name]) for name in ("map", "map50")]
    bounds, sure, high = report.interval, "", ""
    if bounds is not None:
        sure = f" [{bounds[0]:.3f}, {bounds[1]:.3f}] ({LEVEL:.0%}, from halves of the images)"
        if bounds[1] < (report.accuracy.map or 0.0):
            high = "; the figure itself is too high: there are few objects of a class"
    return f"map {figures[0]}{sure}, map50 {figures[1]}{high}"


def _change(report: EvaluationReport) -> list[str]:
    """Return the differences to another evaluation of the same images, and whether they are more than chance."""
    if report.change is None:
        return []
    against = f"against {report.facts['against']}"
    ends = {name: change for name in CHANGED if (change := change_in(report.change.figures, name)) is not None}
    if not ends:
        return [f"{against}: not known, {next(iter(report.change.reasons.values()))}"]
    words = ", ".join(f"{name} {middle:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (low, middle, high) in ends.items())
    low, _, high = ends["map"]
    sure = (
        "the first is more accurate" if low > 0 else "the first is less accurate" if high < 0 else "no sure difference"
    )
    return [f"{against}: {words} ({LEVEL:.0%}): {sure}"]


def _numbers(report: EvaluationReport) -> str:
    metrics = report.accuracy.metrics()
    parts = {
        "map 0.50:0.95": ("map", "map_small", "map_medium", "map_large"),
        "recall of 100": ("ar100", "ar_small", "ar_medium", "ar_large"),
        "recall of 10": ("ar10",),
        "recall of 1": ("ar1",),
        "map 0.50": ("map50",),
        "map 0.75": ("map75",),
    }
    rows = [(head, *(_figure(metrics[name]) for name in names)) for head, names in parts.items()]
    rows += [(f"recall of {report.limit}", _figure(report.ar_limit))] if report.limit != LIMIT else []
    return Table("", ("COCO", "all", "small", "medium", "large"), tuple(rows)).text()


def _classes(report: EvaluationReport) -> str:
    head = ("class", "objects", "map", "VOC ap", "precision", "recall", "F1", "best F1", "at")
    rows = []
    for name, entry in report.classes.items():
        chosen, best = entry.chosen, entry.best
        values = [entry.ap, entry.voc10, chosen.precision, chosen.recall, chosen.f1, best.f1, best.confidence]
        values += [] if report.at is None else [report.at.per_class[name]]
        rows.append((name, str(best.objects), *map(_figure, values)))
    names = head if report.at is None else (*head, f"ap {report.at.iou:g}")
    spare = ("at", "VOC ap", "objects", "best F1", "precision", "recall")
    return Table("", names, tuple(rows), words=("class",), spare=spare).text()


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
    lines = [f"{count} x {true} taken for {predicted}" for count, true, predicted in pairs[:MOST_CONFUSIONS]]
    missed, invented = int(matrix[:-1, -1].sum()), int(matrix[-1, :-1].sum())
    return [*lines, f"{missed} objects missed, {invented} found where there is none"]


def _figure(value: float | None) -> str:
    return number(value, ".3f")
