"""The images of a split on which a detector makes the most mistakes."""

from __future__ import annotations

from collections.abc import Sequence

from paretune.core.types import Annotations, Detections
from paretune.evaluation.confusion_matrix import confusion

MOST = 6
"""Most images that a trial's record names."""


def worst_images(
    detections: Sequence[Detections],
    annotations: Sequence[Annotations],
    ids: Sequence[str],
    num_classes: int,
    confidence: float | None,
    most: int = MOST,
) -> tuple[dict[str, str | int], ...]:
    """Return the images with the most mistakes at one confidence and IoU 0.50, the worst first.

    Args:
        detections: detections of each image.
        annotations: objects of the same images, in the same order.
        ids: name of each image.
        num_classes: number of classes of the dataset.
        confidence: score from which detections count; None if none is known, so that no image can be named.
        most: largest number of images.

    Returns:
        For each image its name, ``image``, the number of detections that are no object of their class, ``wrong``, and
        of objects that were not found, ``missed``. Images without a mistake are left out.
    """
    if confidence is None:
        return ()
    counted = confusion(detections, annotations, num_classes, confidence)
    mistakes = counted.wrong + counted.missed
    order = sorted((place for place in range(len(mistakes)) if mistakes[place]), key=lambda place: -mistakes[place])
    return tuple(
        {"image": str(ids[place]), "wrong": int(counted.wrong[place]), "missed": int(counted.missed[place])}
        for place in order[:most]
    )
