"""Reading image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from paretune.errors import UserError
from paretune.structures import Image

MOST_PIXELS = 100_000_000
"""A larger picture is refused before it is decoded: a small file can hold a huge one."""


def read_image(path: Path) -> Image:
    """Decode an image file into RGB (H, W, 3) uint8.

    Raises:
        UserError: the file is missing, no image, truncated, or too large.
    """
    import cv2

    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    width, height = image_size(path)
    if width * height > MOST_PIXELS:
        raise UserError(f"{path}: {width} x {height} pixels; at most {MOST_PIXELS // 10**6} million are read")
    decoded = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
    if decoded is None:
        raise UserError(f"{path}: not an image that can be decoded (truncated, or of an unknown format)")
    return np.asarray(decoded, np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from the file's header.

    Raises:
        UserError: the file is no image.
    """
    from PIL import Image as Pillow

    try:
        with Pillow.open(path) as picture:
            return picture.size
    except (OSError, Pillow.DecompressionBombError) as error:
        raise UserError(f"{path}: not an image ({error})") from error
