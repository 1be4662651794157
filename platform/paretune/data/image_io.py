"""Reading image files: one way for training, evaluation, prediction, annotating, checking and converting.

What comes out is what a viewer shows: turned as the camera noted (EXIF), in RGB of 8 bits a channel. Of 16 bits the
high byte is taken, as OpenCV and libpng do. Floats (TIFF) are shares of white from 0 to 1, as scikit-image and
matplotlib have it; others are refused. An alpha channel is left aside, the colours are as they are stored, as OpenCV
and Pillow's ``convert("RGB")`` do it. CMYK is taken for Adobe's inverted one, as Pillow and browsers do. Of several
pictures in one file the first is read.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.errors import UserError, not_installed
from paretune.core.types import Image
from paretune.data.file_io import check_file, read_file
from paretune.data.image_headers import MOST_PIXELS, SUFFIXES, ImageHeader, read_header

__all__ = [
    "EMBEDDED",
    "SUFFIXES",
    "content_of",
    "decoded",
    "decoded_deep",
    "eight_bits",
    "image_header",
    "image_size",
    "more_in",
    "read_image",
    "turned",
]
EMBEDDED = ".json"
"""Ending of a file that is not an image and holds one: labelme's, in ``imageData``."""
MOST_BYTES = 8 * MOST_PIXELS
"""A larger file is refused before it is read: four channels of 16 bits, not compressed."""
DAMAGED = "cannot be decoded; the file is truncated or damaged"
WITHOUT_PILLOW = "not JPEG, PNG, BMP, TIFF or WebP; AVIF and HEIC are read by Pillow: `pip install pillow`"
_BY_PILLOW = frozenset({"AVIF", "HEIF"})
"""Kinds that Pillow decodes; all others are OpenCV's, which a deployment has too."""
_SEVERAL = frozenset({"TIFF", "WEBP", "PNG", "AVIF"})
"""Kinds whose files may hold several pictures that somebody means; phones hide a second one in JPEG (MPO) and HEIC."""
_PLAIN = (b"\xff\xd8", b"\x89PNG", b"BM", b"II*\0", b"MM\0*")
"""First bytes of the other kinds, but for WebP's."""
_EXTRA_SAMPLES = 0x0152
"""Tag of TIFF for the meaning of an extra channel; 1 is alpha that the colours are multiplied by, 2 other alpha."""
_BACK = {6: 8, 8: 6}
"""EXIF's orientations that do not undo themselves → the one that does."""


def read_image(path: Path, annotated: tuple[int, int] | None = None) -> Image:
    """Decode an image file into RGB (H, W, 3) uint8, turned as EXIF asks.

    Args:
        path: of an image, or of a labelme file that holds one.
        annotated: (width, height) that the annotation gives. Where that is the size of the unturned picture and not of
            the turned one, the annotation was made in the unturned one, and it is left so.

    Raises:
        UserError: the file is missing, no image, truncated, too large, or of a kind that nothing installed can read.
    """
    return decoded(path, content_of(path), annotated)


def content_of(path: Path) -> bytes:
    """Read an image file's bytes.

    Raises:
        UserError: no such file, no regular file (reading a pipe would wait for ever), or too large.
    """
    content = read_file(path, MOST_BYTES)
    return _embedded(path, content) if path.suffix.lower() == EMBEDDED else content


def decoded(path: Path, content: bytes, annotated: tuple[int, int] | None = None) -> Image:
    """Decode the content of an image file; as ``read_image``, ``path`` is for the message."""
    return eight_bits(path, decoded_deep(path, content, annotated))


def image_size(path: Path, annotated: tuple[int, int] | None = None) -> tuple[int, int]:
    """Return (width, height) of an image as it is read, without decoding it; as ``read_image``.

    Raises:
        UserError: the file is missing, no image, too large, or of a kind that nothing installed can read.
    """
    return image_header(path).size(annotated)


def image_header(path: Path) -> ImageHeader:
    """Read an image file's header.

    Raises:
        UserError: as of ``image_size``.
    """
    if path.suffix.lower() == EMBEDDED:
        return read_header(path, io.BytesIO(content_of(path)))
    try:
        check_file(path, MOST_BYTES)
        with path.open("rb") as file:
            return read_header(path, file)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def decoded_deep(path: Path, content: bytes, annotated: tuple[int, int] | None = None) -> NDArray[Any]:
    """Decode into RGB (H, W, 3) of the depth that the file has: uint8, uint16, a float or another.

    Raises:
        UserError: as of ``decoded``.
    """
    if not _has_pillow():  # a deployment of three packages: OpenCV turns by itself
        if not (content.startswith(_PLAIN) or content[8:12] == b"WEBP"):
            raise UserError(f"{path}: {WITHOUT_PILLOW}")
        pixels = _opencv(path, content, turned=True)
        if pixels.shape[0] * pixels.shape[1] > MOST_PIXELS:
            raise UserError(f"{path}: more than {MOST_PIXELS // 10**6} million pixels, which are read at most")
        return pixels
    header = read_header(path, io.BytesIO(content))
    pixels = _pillow(path, content) if header.kind in _BY_PILLOW else _opencv(path, content, turned=False)
    if header.kind == "TIFF":  # whose orientation OpenCV follows whatever it is told
        pixels = turned(pixels, _BACK.get(header.orientation, header.orientation))
    if (pixels.shape[1], pixels.shape[0]) != header.stored_size:
        raise UserError(f"{path}: {DAMAGED}")
    return turned(pixels, header.orientation) if header.turned(annotated) else pixels


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn and mirror (H, W, C) pixels by EXIF's orientation; CIPA DC-008 (Exif 2.32), tag 274."""
    across = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    flipped = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}.get(orientation, ())
    return np.ascontiguousarray(np.flip(across, flipped))


def eight_bits(path: Path, pixels: NDArray[Any]) -> Image:
    """Bring pixels to 8 bits a channel; ``path`` is for the message.

    Raises:
        UserError: floats that are not shares of white, or integers of another depth.
    """
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype not in (np.float32, np.float64):
        raise UserError(f"{path}: {pixels.dtype} in a channel; 8 or 16 bits without a sign, or floats, are read")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also NaN
        raise UserError(
            f"{path}: floats from {low:g} to {high:g}; they are read as shares of white, 0 to 1: "
            "what is white in this file is not told, so save it with 8 or 16 bits a channel"
        )
    return np.round(pixels * 255).astype(np.uint8)


def more_in(content: bytes, header: ImageHeader) -> tuple[bool, int]:
    """Return of a decodable image whether any of its pixels is transparent, and how many pictures the file holds."""
    from PIL import Image as Pillow

    if not header.alpha and header.kind not in _SEVERAL:
        return False, 1
    try:
        with Pillow.open(io.BytesIO(content)) as picture:
            several = getattr(picture, "n_frames", 1) if header.kind in _SEVERAL else 1
            lowest: Any = picture.convert("RGBA").getchannel("A").getextrema() if header.alpha else (255, 255)
    except Exception:  # noqa: BLE001 - samples that Pillow does not know, or damage behind the first picture
        return False, 1
    return bool(lowest[0] < 255), several


def _opencv(path: Path, content: bytes, *, turned: bool) -> NDArray[Any]:
    """Decode by OpenCV into RGB (H, W, 3) of the file's depth; ``turned`` by EXIF where it is a tag of its own."""
    import cv2

    _silence(cv2)
    coded = np.frombuffer(_alpha_aside(content), np.uint8)
    depth = cv2.IMREAD_ANYDEPTH | (0 if turned else cv2.IMREAD_IGNORE_ORIENTATION)
    # not IMREAD_COLOR_RGB: OpenCV 5.0 mixes up the channels of TIFF files of 16 bits by it
    ways = (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE)
    for colours in ways if content[:2] in (b"II", b"MM") else ways[:1]:  # TIFF of grey floats is read as grey only
        try:
            pixels = cv2.imdecode(coded, colours | depth)
        except cv2.error:
            continue
        if pixels is not None:
            return np.stack([pixels] * 3, axis=2) if pixels.ndim == 2 else np.asarray(pixels[..., ::-1])
    raise UserError(f"{path}: {DAMAGED}")


def _alpha_aside(content: bytes) -> bytes:
    """Call the alpha of a TIFF file premultiplied: by another one libtiff multiplies the colours, as if on black."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(content[:4])
    if order is None:
        return content
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            if struct.unpack_from(f"{order}HHIH", content, entry) == (_EXTRA_SAMPLES, 3, 1, 2):
                return content[: entry + 8] + struct.pack(f"{order}H", 1) + content[entry + 10 :]
    except struct.error:  # damaged, which decoding finds
        pass
    return content


def _pillow(path: Path, content: bytes) -> NDArray[Any]:
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(content)) as picture:
            return np.array(picture.convert("RGB"))
    except Exception as error:  # a damaged file makes the decoders of Pillow raise anything
        raise UserError(f"{path}: {DAMAGED}") from error


def _embedded(path: Path, content: bytes) -> bytes:
    """Return the image that a labelme file holds.

    Raises:
        UserError: it holds none.
    """
    try:
        fields = json.loads(content)
        return base64.b64decode(fields["imageData"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise UserError(f"{path}: holds no image in `imageData`") from error


@cache
def _has_pillow() -> bool:
    return not not_installed(["PIL"])


@cache
def _silence(cv2: Any) -> None:
    """Keep OpenCV from printing its own lines about a damaged file: our error names it."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
