"""What a detector has found, drawn into the image by OpenCV alone: a deployment has no matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import UserError
from paretune.core.types import Detections, Image

LEGIBLE = 900
"""Pixels of an image's longer side up to which lines and letters need not grow."""
_RED, _WHITE = (37, 48, 217), (255, 255, 255)
"""Colours in OpenCV's order: blue, green, red."""
_LETTERS = 11
"""Height of letters in pixels, where they need not grow."""
_LONGEST = 30
"""Letters of a class's name."""


def draw_found(image: Image, found: Detections, classes: Sequence[str], file: Path) -> Path:
    """Draw boxes, class names and scores into an image, pixel for pixel.

    Args:
        image: (H, W, 3).
        found: in pixels of the image.
        classes: their names, in any script.
        file: receives the picture (PNG).

    Raises:
        UserError: the file cannot be written.
    """
    import cv2

    canvas: Any = np.ascontiguousarray(image[..., ::-1])
    height, width = image.shape[:2]
    scale = max(1.0, max(height, width) / LEGIBLE)
    line = max(1, round(1.5 * scale))
    for box in found.boxes[::-1]:
        left, top, right, bottom = (round(float(v)) for v in box)
        cv2.rectangle(canvas, (left, top), (min(right, width - 1), min(bottom, height - 1)), _RED, line)
    for box, score, label in reversed(list(zip(found.boxes, found.scores, found.labels, strict=True))):
        _label(canvas, f"{classes[label][:_LONGEST]} {score:.2f}", box[:2], round(_LETTERS * scale))
    _, content = cv2.imencode(".png", canvas)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.tobytes())
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror})") from error
    return file


def _label(canvas: Any, text: str, corner: Any, size: int) -> None:
    """Write a line of text above a corner, or below it where there is no room."""
    import cv2

    font, pad = cv2.FontFace("sans"), max(1, size // 6)
    left, top = (round(float(v)) for v in corner)
    high = size + 2 * pad
    top = top - high if top >= high else top
    _, _, wide, _ = cv2.getTextSize(canvas.shape[1::-1], text, (0, 0), font, size)
    cv2.rectangle(canvas, (left, top), (left + wide + 2 * pad, top + high), _RED, cv2.FILLED)
    cv2.putText(canvas, text, (left + pad, top + size + pad // 2), _WHITE, font, size)
