"""Evaluating a predictor over a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paretune.core.types import LIMIT, Annotations, Detections, Image, Split
from paretune.evaluation.coco_metrics import NUMBERS, CocoMetrics, CocoMetricsByClass, average_precisions
from paretune.evaluation.matching import MatchedDetections, best_of, match, point_of

_NO_OBJECTS = "the images hold no objects to find"
METRICS = (*NUMBERS, "precision", "recall", "f1", "confidence")
"""COCO's twelve numbers, and the operating point."""


@dataclass(frozen=True)
class Accuracy(CocoMetrics):
    """How well a predictor finds a split's objects; a figure that is not defined is None, and has a reason."""

    precision: float | None
    """Share of the detections of all classes that are right, at ``confidence`` and IoU 0.50."""
    recall: float | None
    """Share of the objects of all classes that are found, at ``confidence`` and IoU 0.50."""
    f1: float | None
    """Harmonic mean of precision and recall; the best that any confidence gives unless one was asked for."""
    confidence: float | None
    """The score at which detections were cut off for precision, recall and F1."""
    images: int
    """Images that were evaluated."""
    per_class: Mapping[str, float | None]
    """Average precision (0.50:0.95) of each class; None for a class without objects in the split."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why a metric is None."""
    worst: tuple[Mapping[str, Any], ...] = ()
    """Images with the most mistakes (`worst_images`); empty where they were not looked for."""

    def facts(self) -> dict[str, Any]:
        """Return the precision of each class and the worst images as a trial's record keeps them."""
        return {"classes": dict(self.per_class), "worst_images": [dict(image) for image in self.worst]}

    def metrics(self) -> dict[str, float | None]:
        """Return the figures by the names they are logged under."""
        return {name: getattr(self, name) for name in METRICS}


def evaluate(
    predictor: Callable[[Image], Detections],
    split: Split,
    progress: Callable[[int, int], None] | None = None,
    images: int | None = None,
    limit: int = LIMIT,
) -> Accuracy:
    """Run a predictor over the images of a split, in their order, and compare with the annotations.

    Args:
        predictor: image (H, W, 3) uint8 RGB → detections in pixels of that image.
        split: what to evaluate on.
        progress: called after each image with the number done and the number of all.
        images: evaluate the first so many only.
        limit: most detections of a class in an image that count.
    """
    detections = detect(predictor, split, progress, images)
    annotations = [split.annotations(index) for index in range(len(detections))]
    return accuracy_of(detections, annotations, split.classes, limit=limit)


def detect(
    predictor: Callable[[Image], Detections],
    split: Split,
    progress: Callable[[int, int], None] | None = None,
    images: int | None = None,
) -> list[Detections]:
    """Return what a predictor finds in each image of a split; the arguments are those of ``evaluate``."""
    count = len(split) if images is None else min(images, len(split))
    detections = []
    for index in range(count):
        detections.append(predictor(split.image(index)))
        if progress is not None:
            progress(index + 1, count)
    return detections


def accuracy_of(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    classes: Sequence[str],
    *,
    confidence: float | None = None,
    averages: CocoMetricsByClass | None = None,
    matched: MatchedDetections | None = None,
    limit: int = LIMIT,
) -> Accuracy:
    """Compare detections with annotations, image by image.

    Args:
        detections: of each image.
        annotations: of the same images, in the same order.
        classes: names of the classes.
        confidence: for precision, recall and F1; None takes the one of the best F1.
        averages: COCO's numbers, where they are known already.
        matched: the result of ``match``, where it is known already.
        limit: most detections of a class in an image that count for COCO's numbers.

    Raises:
        ValueError: not as many detections as annotations.
    """
    averages_used = averages or average_precisions(detections, annotations, len(classes), limit)
    matched = match(detections, annotations) if matched is None else matched
    point = best_of(matched) if confidence is None else point_of(matched, confidence)
    operating = {"precision": point.precision, "recall": point.recall, "f1": point.f1, "confidence": point.confidence}
    numbers = averages_used.numbers()
    reasons = dict.fromkeys((name for name, value in numbers.items() if value is None), _NO_OBJECTS)
    if point.objects:
        reasons = {name: f"the images hold no {name.rpartition('_')[2]} objects" for name in reasons}
    why = "nothing was detected" if point.objects else _NO_OBJECTS
    reasons |= {name: why for name, value in operating.items() if value is None}
    figures: dict[str, Any] = {**numbers, **operating}
    return Accuracy(
        **figures,
        images=len(annotations),
        per_class=dict(zip(classes, averages_used.per_class, strict=True)),
        reasons=reasons,
    )
