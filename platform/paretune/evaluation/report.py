"""The report of one evaluation: COCO's and VOC's numbers, classes, intervals, curves, confusions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from paretune.core.types import LIMIT, Annotations, Detections
from paretune.evaluation.accuracy import Accuracy, accuracy_of
from paretune.evaluation.baseline_difference import CHANGES, AccuracyDifference, change_of
from paretune.evaluation.coco_metrics import CocoMetricsByClass, average_precisions
from paretune.evaluation.confusion_matrix import ConfusionMatrix, confusion
from paretune.evaluation.map_at_iou import EvaluationAtIou
from paretune.evaluation.map_bootstrap import DRAWS, METHOD, draw, interval_of
from paretune.evaluation.matching import MatchedDetections, OperatingPoint, best_of, match_by_class, point_of, together
from paretune.evaluation.results_explanations import limit_notes
from paretune.evaluation.voc_metrics import voc_aps

LEVEL = 0.95
"""Confidence of the interval of map."""
OPERATING = ("precision", "recall", "f1", "confidence")


@dataclass(frozen=True)
class ClassReport:
    """One class."""

    ap: float | None
    """COCO's, IoU 0.50:0.95; None without objects."""
    voc07: float | None
    voc10: float | None
    matched: MatchedDetections
    best: OperatingPoint
    """The confidence of its own best F1."""
    chosen: OperatingPoint
    """Operating point at the confidence of the whole report."""

    def tree(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "map": self.ap,
            "ap_voc07": self.voc07,
            "ap_voc10": self.voc10,
            **_point(self.chosen),
            "best": _point(self.best),
            "objects": self.best.objects,
        }


@dataclass(frozen=True)
class EvaluationReport:
    """The accuracy of an artefact, or of results in COCO's format, on one split."""

    accuracy: Accuracy
    classes: Mapping[str, ClassReport]
    best: OperatingPoint
    """Operating point of all classes together, at the confidence of the best F1."""
    interval: tuple[float, float] | None
    """95 % interval of map over images; None where map is unknown."""
    confusion: ConfusionMatrix
    """Confusion matrix at the report's confidence, or at 0.5 where nothing gives one."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What was evaluated: artefact, split, runtime, time of an inference."""
    change: AccuracyDifference | None = None
    """What it has more than ``facts["against"]``, where that was asked for."""
    at: EvaluationAtIou | None = None
    """The evaluation at one IoU, where that was asked for."""
    limit: int = LIMIT
    """Most detections of a class in an image that counted for COCO's numbers."""
    ar_limit: float | None = None
    """Average recall with so many."""
    notes: tuple[str, ...] = ()
    """What the reader must know of the figures: limits that bind, what seems to be wrong with the detections."""

    @property
    def voc(self) -> dict[str, float | None]:
        """Mean of the classes' average precisions by both of VOC's rules."""
        return {rule: _mean([getattr(c, rule) for c in self.classes.values()]) for rule in ("voc07", "voc10")}

    def tree(self) -> dict[str, Any]:
        """Return plain data, as ``paretune evaluate --json`` prints it."""
        return {
            "metrics": self.accuracy.metrics(),
            "per_class": {name: entry.tree() for name, entry in self.classes.items()},
            "best": _point(self.best),
            "map_interval": None if self.interval is None else {"low": self.interval[0], "high": self.interval[1]},
            "interval": {"level": LEVEL, "method": METHOD, "draws": DRAWS},
            "map50_voc07": self.voc["voc07"],
            "map50_voc10": self.voc["voc10"],
            "confusion": {
                "rows": [*self.classes, "background"],
                "columns": [*self.classes, "nothing"],
                "counts": self.confusion.matrix.tolist(),
            },
            "images": self.accuracy.images,
            "max_detections": {"limit": self.limit, "recall": self.ar_limit},
            "notes": list(self.notes),
            "reasons": dict(self.accuracy.reasons) | ({} if self.change is None else self.change.reasons),
            **({} if self.at is None else {"at_iou": self.at.tree()}),
            **self.facts,
            **({} if self.change is None else {"change": {name: self.change.figures.get(name) for name in CHANGES}}),
        }


def report_of(  # noqa: PLR0913 - all that a report is made of
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    classes: Sequence[str],
    *,
    confidence: float | None = None,
    averages: CocoMetricsByClass | None = None,
    facts: Mapping[str, Any] | None = None,
    before: Sequence[Detections] | None = None,
    at: EvaluationAtIou | None = None,
    limit: int = LIMIT,
    notes: Sequence[str] = (),
) -> EvaluationReport:
    """Evaluate detections.

    Args:
        detections: of each image.
        annotations: of the same images, in the same order.
        classes: names.
        confidence: for precision, recall, F1 and confusions; None takes that of the best F1 of all classes together.
        averages: COCO's numbers, where they are known already.
        facts: about what was evaluated.
        before: detections of the same images that these are to be compared with.
        at: what they come to at one IoU.
        limit: most detections of a class in an image that count for COCO's numbers.
        notes: on the detections; notes on where the limit binds are added.
    """
    matched = match_by_class(detections, annotations, len(classes))
    every = together(matched)
    numbers = averages or average_precisions(detections, annotations, len(classes), limit=limit)
    accuracy = accuracy_of(detections, annotations, classes, confidence=confidence, averages=numbers, matched=every)
    chosen = accuracy.confidence if accuracy.confidence is not None else 0.5
    voc = voc_aps(detections, annotations, len(classes))
    drawn = draw(detections, annotations, len(classes), limit=limit)
    bounds = interval_of(drawn)
    return EvaluationReport(
        accuracy=accuracy,
        classes={
            name: ClassReport(
                accuracy.per_class[name],
                voc["07"][i],
                voc["10"][i],
                matched[i],
                best_of(matched[i]),
                point_of(matched[i], chosen),
            )
            for i, name in enumerate(classes)
        },
        best=best_of(every),
        interval=None if bounds is None else (bounds[0], bounds[2]),
        confusion=confusion(detections, annotations, len(classes), chosen),
        facts=dict(facts or {}),
        change=None if before is None else change_of(drawn, before, annotations, len(classes), limit),
        at=at,
        limit=limit,
        ar_limit=numbers.ar_limit,
        notes=(*notes, *limit_notes(detections, annotations, limit)),
    )


def inference_facts(seconds: Sequence[float]) -> dict[str, Any]:
    """Return the time of one inference as it was in this evaluation: everything from the decoded image to the boxes.

    Nothing was kept off the device meanwhile; ``paretune profile`` and sweeps measure.
    """
    if not seconds:
        return {"inference_ms_p50": None, "inference_ms_p90": None}
    times = np.array(seconds) * 1e3
    return {
        "inference_ms_p50": float(median(times)),
        "inference_ms_p90": float(np.percentile(times, 90)) if len(times) >= 64 else None,
    }


def _point(point: OperatingPoint) -> dict[str, float | None]:
    return {name: getattr(point, name) for name in OPERATING}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
