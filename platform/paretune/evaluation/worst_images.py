"""The images of a split on which a detector makes the most mistakes."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.core.types import Annotations, Detections, Image, Split
from paretune.evaluation.confusion_matrix import confusion
from paretune.storage.atomic_files import write_text

if TYPE_CHECKING:
    from paretune.evaluation.accuracy import Accuracy

MOST = 6
"""Most images that a trial's record names."""
PICTURES = "worst.json"
"""File of a trial's folder with the first of these images as small pictures, and the boxes in them."""
PICTURED = 3
"""Most pictures of a trial."""
LONGEST, QUALITY = 256, 65
"""Longer side of a picture in pixels, and its quality as WebP."""
MOST_BOXES = 50
"""Most boxes of a picture of each kind: annotated ones, and found ones, the surest first."""


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


def keep_worst_pictures(file: Path, accuracy: Accuracy, detections: Sequence[Detections], split: Split) -> None:
    """Write small pictures of the worst images with their boxes, from which a page draws them (JSON).

    Each picture has the fields of ``worst_images``, and ``width`` and ``height`` of the image, ``objects`` and
    ``detected``, the numbers of boxes, ``truth`` with [x1, y1, x2, y2, class] of at most ``MOST_BOXES`` objects,
    ``found`` with [x1, y1, x2, y2, class, score], and ``picture``, a URL that holds the image. Boxes are in pixels of
    the image. Objects to ignore are not among them.

    Args:
        file: to write.
        accuracy: with the worst images and the confidence from which detections count.
        detections: of each image of the split.
        split: the images.
    """
    places = {name: place for place, name in enumerate(split.ids)} if accuracy.worst else {}
    pictures = []
    for entry in accuracy.worst[:PICTURED]:
        place = places[entry["image"]]
        image, found, truth = split.image(place), detections[place], split.annotations(place)
        sure = found.scores >= found.scores.dtype.type(accuracy.confidence)
        objects = ~truth.ignore
        height, width = image.shape[:2]
        pictures.append(
            {
                **entry,
                "width": width,
                "height": height,
                "objects": int(objects.sum()),
                "detected": int(sure.sum()),
                "truth": _boxes(truth.boxes[objects], truth.labels[objects], split.classes),
                "found": _boxes(found.boxes[sure], found.labels[sure], split.classes, found.scores[sure]),
                "picture": _thumbnail(image),
            }
        )
    write_text(file, json.dumps({"confidence": accuracy.confidence, "images": pictures}))


def _boxes(boxes: Any, labels: Any, classes: Sequence[str], scores: Any = None) -> list[list[Any]]:
    """Return boxes as rows of whole pixels and the name of a class, and the score if there is one."""
    rows = [[*map(round, box), classes[label]] for box, label in zip(boxes.tolist(), labels.tolist(), strict=True)]
    if scores is not None:
        rows = [[*row, round(score, 2)] for row, score in zip(rows, scores.tolist(), strict=True)]
    return rows[:MOST_BOXES]


def _thumbnail(image: Image) -> str:
    """Return an image (H, W, 3) as a URL that holds it, made smaller if it is larger than a picture."""
    import cv2

    scale = min(1.0, LONGEST / max(image.shape[:2]))
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    small: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image
    _, content = cv2.imencode(".webp", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    return f"data:image/webp;base64,{base64.b64encode(content.tobytes()).decode()}"
