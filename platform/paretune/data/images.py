"""Reading image files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO

import numpy as np

from paretune.errors import UserError
from paretune.structures import Image

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Endings of the files that are taken for images, in small letters."""
MOST_PIXELS = 80_000_000
"""A larger picture is refused before it is decoded: a small file can hold a huge one."""


def read_image(path: Path) -> Image:
    """Decode an image file into RGB (H, W, 3) uint8.

    The pixels stay as they are stored: a rotation noted by the camera (EXIF) is not carried out, because
    boxes are given in stored pixels.

    Raises:
        UserError: the file is missing, no image, truncated, or too large.
    """
    import cv2

    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    size = _size(path, io.BytesIO(content))
    decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None or (decoded.shape[1], decoded.shape[0]) != size:
        raise UserError(f"{path}: cannot be decoded; the file is truncated or damaged")
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from the file's header, without decoding it.

    Raises:
        UserError: the file is missing, no image, or too large.
    """
    try:
        with path.open("rb") as file:
            return _size(path, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _size(path: Path, file: IO[bytes]) -> tuple[int, int]:
    from PIL import Image as Pillow

    try:
        with Pillow.open(file) as picture:
            width, height = picture.size
    except (OSError, Pillow.DecompressionBombError, SyntaxError, ValueError) as error:
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{path}: not an image of a known kind ({kinds}), or damaged") from error
    if width * height > MOST_PIXELS:
        raise UserError(f"{path}: {width} x {height} pixels; at most {MOST_PIXELS // 10**6} million are read")
    return width, height
