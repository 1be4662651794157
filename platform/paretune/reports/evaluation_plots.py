"""Pictures of an evaluation: curves, confusion matrix, and the images with the most mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.types import Annotations, Detections, Image
from paretune.evaluation.matching import MatchedDetections
from paretune.evaluation.report import EvaluationReport
from paretune.reports.figures import FOUND, TRUE, draw_box, label, new_figure, plain_axes, save_png

MOST_CLASSES = 20
"""Classes that have a curve or a row: those with the most objects."""
WORST = 8
"""Images in ``worst.png``."""


def draw_report(report: EvaluationReport, folder: Path) -> list[Path]:
    """Draw precision over recall, F1 over confidence, and the confusion matrix.

    Args:
        report: the evaluation's report.
        folder: receives ``precision_recall.png``, ``f1.png`` and ``confusion.png``; made if it is not there.

    Raises:
        UserError: the folder cannot be written.
    """
    return [
        _save(_precision_recall(report), folder / "precision_recall.png"),
        _save(_f1(report), folder / "f1.png"),
        _save(_confusion(report), folder / "confusion.png"),
    ]


def draw_worst(
    report: EvaluationReport,
    image: Callable[[int], Image],
    annotations: Sequence[Annotations],
    detections: Sequence[Detections],
    folder: Path,
) -> Path | None:
    """Draw the images with the most mistakes into ``worst.png``; returns None if there is no mistake.

    Args:
        report: the evaluation's report.
        image: index → RGB image (H, W, 3).
        annotations: true boxes of all images.
        detections: detected boxes of all images.
        folder: receives the picture.
    """
    mistakes = report.confusion.wrong + report.confusion.missed
    order = [int(index) for index in np.argsort(-mistakes, kind="stable")[:WORST] if mistakes[index]]
    if not order:
        return None
    figure = new_figure(14, 7.5)
    confidence = report.accuracy.confidence if report.accuracy.confidence is not None else 0.5
    axes = list(figure.subplots(2, WORST // 2).flat)
    names = list(report.classes)
    for ax in axes:
        ax.set_axis_off()
    for ax, index in zip(axes, order, strict=False):
        ax.imshow(image(index))
        truth, detected = annotations[index], detections[index]
        for box, kind, ignore in zip(truth.boxes, truth.labels, truth.ignore, strict=True):
            draw_box(ax, box, TRUE, names[kind], dashed=bool(ignore))
        for box, score, kind in zip(detected.boxes, detected.scores, detected.labels, strict=True):
            if score >= confidence:
                draw_box(ax, box, FOUND, f"{names[kind]} {score:.2f}", below=True)
        wrong, missed = report.confusion.wrong[index], report.confusion.missed[index]
        ax.set_title(f"image {index}: {wrong} wrong, {missed} missed", fontsize=9)
    figure.suptitle(f"most mistakes at confidence {confidence:.2f}: objects green, detections red", fontsize=11)
    return _save(figure, folder / "worst.png")


def _precision_recall(report: EvaluationReport) -> Any:
    figure = new_figure(7.5, 5.5)
    ax = figure.subplots()
    for name, entry in _shown(report):
        recall, precision = curve(entry.matched)
        ax.plot(recall, precision, label=f"{label(name)} ({entry.best.objects} objects)", lw=1.3)
    if report.accuracy.recall is not None and report.accuracy.precision is not None:
        at = f"all, confidence {report.accuracy.confidence:.2f}"
        ax.plot(report.accuracy.recall, report.accuracy.precision, "k*", ms=11, label=at)
    ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01), ylim=(0, 1.02), title="precision over recall, IoU 0.50")
    return _finished(figure, ax)


def _f1(report: EvaluationReport) -> Any:
    figure = new_figure(7.5, 5.5)
    ax = figure.subplots()
    for name, entry in _shown(report):
        matched = entry.matched
        if matched.objects and matched.scores.size:
            f1 = 2 * np.cumsum(matched.hits) / (np.arange(1, matched.hits.size + 1) + matched.objects)
            best = entry.best
            ax.plot(matched.scores, f1, label=f"{label(name)}: {best.f1:.2f} at {best.confidence:.2f}", lw=1.3)
    if report.accuracy.confidence is not None:
        ax.axvline(report.accuracy.confidence, c="k", ls=":", lw=1, label="confidence of the figures")
    ax.set(xlabel="confidence", ylabel="F1", xlim=(0, 1.01), ylim=(0, 1.02), title="F1 over confidence, IoU 0.50")
    return _finished(figure, ax)


def _confusion(report: EvaluationReport) -> Any:
    names = [name for name, _ in _shown(report)]
    places = [list(report.classes).index(name) for name in names] + [len(report.classes)]
    counts = report.confusion.matrix[np.ix_(places, places)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = 3.5 + 0.45 * len(places)
    figure = new_figure(side + 1, side)
    ax = figure.subplots()
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            colour = "white" if shares[row, column] > 0.55 else "black"
            ax.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, c=colour)
    labels = [label(name) for name in names]
    ax.set_xticks(range(len(places)), [*labels, "nothing"], rotation=45, ha="right", fontsize=8)
    ax.set_yticks(range(len(places)), [*labels, "background"], fontsize=8)
    confidence = 0.5 if report.accuracy.confidence is None else report.accuracy.confidence
    ax.set(xlabel="detected", ylabel="true", title=f"confusions at confidence {confidence:.2f}")
    return figure


def curve(matched: MatchedDetections) -> tuple[Any, Any]:
    """Return recall and precision at every confidence, the highest first; empty without objects or detections."""
    if not matched.objects or not matched.scores.size:
        return np.zeros(0), np.zeros(0)
    hits = np.cumsum(matched.hits)
    return hits / matched.objects, hits / np.arange(1, hits.size + 1)


def _shown(report: EvaluationReport) -> list[tuple[str, Any]]:
    entries = sorted(report.classes.items(), key=lambda item: -item[1].best.objects)[:MOST_CLASSES]
    chosen = {name for name, _ in entries}
    return [(name, entry) for name, entry in report.classes.items() if name in chosen]


def _finished(figure: Any, ax: Any) -> Any:
    plain_axes(ax)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)
    return figure


def _save(figure: Any, file: Path) -> Path:
    with suppress(OSError):  # what is wrong with the folder comes out when the file is written
        file.parent.mkdir(parents=True, exist_ok=True)
    return save_png(figure, file)
