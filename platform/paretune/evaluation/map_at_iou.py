"""Accuracy at one IoU of the user's choice, by COCO's rules; pycocotools gives the same with ``iouThrs`` set to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.core.types import LIMIT, Annotations, Detections
from paretune.evaluation.coco_metrics import MetricsAtIou, coco_eval, metrics_at
from paretune.evaluation.matching import OperatingPoint, best_of, match, point_of


@dataclass(frozen=True)
class EvaluationAtIou:
    """What an evaluation comes to at one IoU."""

    iou: float
    averages: MetricsAtIou
    per_class: Mapping[str, float | None]
    """Average precision of each class; None without objects."""
    point: OperatingPoint
    """Precision, recall and F1 of all classes together, at the confidence asked for or that of the best F1 there."""

    def tree(self) -> dict[str, Any]:
        """Return plain data."""
        point = {name: getattr(self.point, name) for name in ("precision", "recall", "f1", "confidence")}
        return {"iou": self.iou, "map": self.averages.map, "ar100": self.averages.ar100, **point} | {
            "per_class": dict(self.per_class)
        }


def at_iou(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    classes: Sequence[str],
    iou: float | None,
    *,
    confidence: float | None = None,
    averages: MetricsAtIou | None = None,
    limit: int = LIMIT,
) -> EvaluationAtIou | None:
    """Evaluate detections at one IoU.

    Args:
        detections: of each image.
        annotations: of the same images, in the same order.
        classes: names.
        iou: from which a detection is a hit, in (0, 1]; None evaluates nothing, and returns None.
        confidence: for precision, recall and F1; None takes that of the best F1 at this IoU.
        averages: COCO's numbers, where they are known already.
        limit: most detections of a class in an image that count for these.
    """
    if iou is None:
        return None
    metrics = averages or metrics_at(
        coco_eval(detections, annotations, len(classes), iou=iou, limit=limit), len(classes), limit
    )
    matched = match(detections, annotations, iou)
    point = best_of(matched) if confidence is None else point_of(matched, confidence)
    return EvaluationAtIou(iou, metrics, dict(zip(classes, metrics.per_class, strict=True)), point)
