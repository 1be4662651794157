"""Evaluating a predictor over a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from paretune.structures import Annotations, Detections, Image, Split


@dataclass(frozen=True)
class Accuracy:
    """How well a predictor finds a split's objects; None where there is nothing to find."""

    map: float | None
    """COCO mean average precision, IoU 0.50:0.95, at most 100 detections an image."""
    map50: float | None
    """The same at IoU 0.50."""
    precision: float | None
    """At ``confidence``, IoU 0.50."""
    recall: float | None
    f1: float | None
    confidence: float | None
    """The score threshold of the best F1."""
    images: int
    per_class: Mapping[str, float | None]
    """Average precision (0.50:0.95) of each class."""

    def metrics(self) -> dict[str, float | None]:
        """Return the figures by the names they are logged under."""
        names = ("map", "map50", "precision", "recall", "f1", "confidence")
        return {name: getattr(self, name) for name in names}


def evaluate(predictor: Callable[[Image], Detections], split: Split) -> Accuracy:
    """Run a predictor over every image of a split and compare with the annotations."""
    detections = [predictor(split.image(index)) for index in range(len(split))]
    annotations = [split.annotations(index) for index in range(len(split))]
    return accuracy_of(detections, annotations, split.classes)


def accuracy_of(
    detections: Sequence[Detections], annotations: Sequence[Annotations], classes: Sequence[str]
) -> Accuracy:
    """Compare detections with annotations, image by image."""
    from paretune.evaluation.coco import average_precisions
    from paretune.evaluation.matching import best_f1

    found = average_precisions(detections, annotations, len(classes))
    point = best_f1(detections, annotations)
    return Accuracy(
        map=found.map,
        map50=found.map50,
        precision=point.precision if point else None,
        recall=point.recall if point else None,
        f1=point.f1 if point else None,
        confidence=point.confidence if point else None,
        images=len(annotations),
        per_class=dict(zip(classes, found.per_class, strict=True)),
    )
