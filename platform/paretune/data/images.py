"""Reading image files."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

import numpy as np

from paretune.data.files import check_file, read_file
from paretune.errors import UserError, needed, not_installed
from paretune.structures import Image

KINDS = {
    "BMP": frozenset({".bmp"}),
    "JPEG": frozenset({".jpeg", ".jpg"}),
    "PNG": frozenset({".png"}),
    "TIFF": frozenset({".tif", ".tiff"}),
    "WEBP": frozenset({".webp"}),
}
"""Kinds of images that are read, by Pillow's name, each with its files' endings in small letters."""
SUFFIXES = frozenset[str]().union(*KINDS.values())
"""Endings of the files that are taken for images."""
_ORIENTATION = 0x0112  # tag of EXIF
MOST_PIXELS = 80_000_000
"""A larger picture is refused before it is decoded: a small file can hold a huge one."""
MOST_BYTES = 8 * MOST_PIXELS
"""A larger file is refused before it is read: four channels of 16 bits, not compressed."""


def read_image(path: Path) -> Image:
    """Decode an image file into RGB (H, W, 3) uint8.

    The pixels stay as they are stored: a rotation noted by the camera (EXIF) is not carried out, because
    boxes are given in stored pixels.

    Raises:
        UserError: the file is missing, no image, truncated, or too large.
    """
    return decoded(path, content_of(path))


def content_of(path: Path) -> bytes:
    """Read an image file's bytes.

    Raises:
        UserError: no such file, no regular file (reading a pipe would wait for ever), or too large.
    """
    return read_file(path, MOST_BYTES)


def decoded(path: Path, content: bytes) -> Image:
    """Decode the content of an image file into RGB (H, W, 3) uint8; ``path`` is for the message.

    A deployment may lack Pillow: there OpenCV alone says whether it is an image.

    Raises:
        UserError: no image, truncated, or too large.
    """
    import cv2

    alone = bool(not_installed(["PIL"]))
    size = None if alone else header(path, io.BytesIO(content)).size
    _silence(cv2)
    try:
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        pixels = None
    if pixels is None or (size is not None and (pixels.shape[1], pixels.shape[0]) != size):
        other = f", or of a kind that is read with {needed(['PIL'])}" if alone else ""
        raise UserError(f"{path}: cannot be decoded; the file is truncated or damaged{other}")
    _check_pixels(path, pixels.shape[1], pixels.shape[0])
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from the file's header, without decoding it.

    Raises:
        UserError: the file is missing, no image, or too large.
    """
    try:
        check_file(path, MOST_BYTES)
        with path.open("rb") as file:
            return header(path, file).size
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class Header:
    """What the first bytes of an image file tell."""

    size: tuple[int, int]
    """(width, height) in stored pixels."""
    kind: str
    """``JPEG``, ``PNG``, …, by its content, whatever its name says."""
    rotated: bool
    """The camera noted (EXIF) that the picture is to be turned or mirrored."""


def header(path: Path, file: IO[bytes], exif: bool = False) -> Header:
    """Read an image file's header without decoding it; ``rotated`` is looked up with ``exif`` only.

    Raises:
        UserError: no image, or too large.
    """
    from PIL import Image as Pillow

    warnings.filterwarnings("ignore", module=r"PIL\.")  # what hinders reading is told here, in one line
    try:
        with Pillow.open(file, formats=list(KINDS)) as picture:
            (width, height), kind = picture.size, "JPEG" if picture.format == "MPO" else str(picture.format)
            rotated = exif and _rotated(picture)
    except Pillow.DecompressionBombError as error:
        raise UserError(f"{path}: too many pixels; at most {MOST_PIXELS // 10**6} million are read") from error
    except Exception as error:  # a damaged header makes the decoders of Pillow raise anything
        kinds = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{path}: not an image of a known kind ({kinds}), or damaged") from error
    _check_pixels(path, width, height)
    return Header((width, height), kind, rotated)


def _check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse a picture of too many pixels.

    Raises:
        UserError: it has.
    """
    if width * height > MOST_PIXELS:
        raise UserError(f"{path}: {width} x {height} pixels; at most {MOST_PIXELS // 10**6} million are read")


def _rotated(picture: Any) -> bool:
    try:
        return picture.getexif().get(_ORIENTATION, 1) not in (0, 1)
    except Exception:  # noqa: BLE001 - damaged EXIF says nothing; the pixels may be right
        return False


@cache
def _silence(cv2: Any) -> None:
    """Keep OpenCV from printing its own lines about a damaged file: our error names it."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
