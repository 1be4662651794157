"""Checks of every image file: decoded in parallel, each once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.errors import UserError
from paretune.core.types import Image
from paretune.data.file_io import is_there
from paretune.data.image_headers import KINDS, ImageHeader, read_header
from paretune.data.image_io import EMBEDDED, content_of, decoded_deep, eight_bits, more_in
from paretune.data.raw_annotations import Finding, RawImage

_GRID = 8
"""The small grey version has 8 x 8 differences: a hash of 64 bits."""
_FLAT = 8.0
"""Grey levels that a small version must span: the hash of a uniform picture is only noise."""
_DARK = 16_384
"""Largest value, of 65535, of a picture of 16 bits that comes out dark: many cameras use 10 or 12 bits."""
_MOST_THREADS = 8
_AT_ONCE = 256
"""Images handed to the threads at a time: what waits is little, and Ctrl-C is soon obeyed."""


@dataclass(frozen=True)
class ImageInfo:
    """What one image file is."""

    size: tuple[int, int] | None
    """(width, height) as it is read; None where it cannot be decoded."""
    content: str
    """Digest of the file's bytes; empty where it cannot be read."""
    grey: bytes | None
    """Difference hash of the small grey version; None where it is unknown or the picture is uniform."""
    findings: tuple[Finding, ...] = ()


def inspect_images(
    images: Iterable[RawImage], pixels: Mapping[Path, Callable[[], Image]], progress: Callable[[int, int], None]
) -> dict[Path, ImageInfo]:
    """Decode the file of each image once, and return what it is, by file.

    Args:
        images: of all splits; those that are not there give a finding.
        pixels: how to make the images that are no files.
        progress: called with the number of images done and of all.
    """
    annotated: dict[Path, tuple[int, int] | None] = {}
    for image in images:
        annotated[image.file] = annotated.get(image.file) or image.annotated_size
    todo = sorted(annotated)
    infos: dict[Path, ImageInfo] = {}
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(todo), _AT_ONCE):
            now = todo[start : start + _AT_ONCE]
            running = {pool.submit(_inspect, file, pixels.get(file), annotated[file]): file for file in now}
            for done in as_completed(running):
                infos[running[done]] = done.result()
                progress(len(infos), len(todo))
    return {file: infos[file] for file in todo}


def _inspect(file: Path, make: Callable[[], Image] | None, annotated: tuple[int, int] | None) -> ImageInfo:
    if make is None:
        return inspect_image(file, annotated)
    image = make()
    return ImageInfo((image.shape[1], image.shape[0]), _digest(image.tobytes()), difference_hash(image))


def inspect_image(file: Path, annotated: tuple[int, int] | None = None) -> ImageInfo:
    """Decode one file, and return what it is with what is wrong with it or its reader must know.

    Args:
        file: the image.
        annotated: (width, height) that its annotation gives, if it does.
    """
    content = b""
    try:
        content = content_of(file)
        header = read_header(file, io.BytesIO(content))
        deep = decoded_deep(file, content, annotated)
        pixels = eight_bits(file, deep)
    except UserError as error:
        reason = str(error).removeprefix(f"{file}: ")
        kind = "unreadable-image" if is_there(file, Path.exists) else "missing-image"
        return ImageInfo(None, _digest(content), None, (Finding(kind, str(file), "", reason),))
    told_of = [*_of_header(file, header, annotated), *_of_pixels(deep, header, content)]
    findings = tuple(Finding(kind, str(file), "", message) for kind, message in told_of)
    return ImageInfo(header.size(annotated), _digest(content), difference_hash(pixels), findings)


def _of_header(file: Path, header: ImageHeader, annotated: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    if file.suffix.lower() not in (*KINDS[header.kind], EMBEDDED):
        yield "wrong-suffix", f"its content is {header.kind}, its name says {file.suffix}"
    stored, turned = (f"{width} x {height}" for width, height in (header.stored_size, header.turned_size))
    if header.turned(annotated):
        yield "turned", f"by EXIF's orientation {header.orientation}: {stored} pixels are stored, {turned} are read"
    elif header.orientation != 1:
        yield "unturned", f"EXIF's orientation is {header.orientation}; its annotation says {stored}, as it is stored"


def _of_pixels(deep: NDArray[Any], header: ImageHeader, content: bytes) -> Iterator[tuple[str, str]]:
    if deep.dtype == np.uint16:
        most = int(deep.max())
        dark = "; scale it before, or nearly all of it is black" if most < _DARK else ""
        yield "deep", f"16 bits a channel, the largest value {most} of 65535: the high byte is taken{dark}"
    elif deep.dtype != np.uint8:
        yield "deep", "floats from 0 to 1: shares of white"
    transparent, several = more_in(content, header)
    if transparent:
        yield "transparent", "some pixels are transparent; their colours are taken as they are stored"
    if several > 1:
        yield "frames", f"{several} pictures in it: the first is read"


def difference_hash(image: Image) -> bytes | None:
    """Return whether each cell of a 8 x 9 grey version is brighter than its left neighbour, as 8 bytes.

    Source: the difference hash (dHash) of Neal Krawetz, 2013. Scaling, recompression and brightness leave
    it nearly as it is. None for a picture that is uniform at that scale.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (_GRID + 1, _GRID), interpolation=cv2.INTER_AREA).astype(np.float32)
    if np.ptp(small) < _FLAT:
        return None
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if content else ""
