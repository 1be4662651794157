"""Looking at every image file: really decoded, in parallel, each once."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paretune.data.checking.findings import Finding
from paretune.data.images import KINDS, content_of, decoded, header
from paretune.errors import UserError
from paretune.structures import Image

_GRID = 8
"""The small grey version has 8 x 8 differences: a hash of 64 bits."""
_FLAT = 8.0
"""Grey levels that a small version must span: the hash of a uniform picture is only noise."""
_MOST_THREADS = 8
_AT_ONCE = 256
"""Images handed to the threads at a time: what waits is little, and Ctrl-C is soon obeyed."""


@dataclass(frozen=True)
class Look:
    """What one image file is."""

    size: tuple[int, int] | None
    """(width, height) in stored pixels; None where it cannot be decoded."""
    content: str
    """Digest of the file's bytes; empty where it cannot be read."""
    grey: bytes | None
    """Difference hash of the small grey version; None where it is unknown or tells nothing."""
    findings: tuple[Finding, ...] = ()


def look_at(
    files: Iterable[Path], pixels: Mapping[Path, Callable[[], Image]], progress: Callable[[int, int], None]
) -> dict[Path, Look]:
    """Look at each image once.

    Args:
        files: images; those that are not there give a finding.
        pixels: how to make those of them that are no files.
        progress: told how many are done, of how many.
    """
    todo = sorted(set(files))
    found: dict[Path, Look] = {}
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        for start in range(0, len(todo), _AT_ONCE):
            running = {pool.submit(_look, file, pixels.get(file)): file for file in todo[start : start + _AT_ONCE]}
            for done in as_completed(running):
                found[running[done]] = done.result()
                progress(len(found), len(todo))
    return {file: found[file] for file in todo}


def _look(file: Path, make: Callable[[], Image] | None) -> Look:
    if make is None:
        return look(file)
    image = make()
    return Look((image.shape[1], image.shape[0]), _digest(image.tobytes()), difference_hash(image))


def look(file: Path) -> Look:
    """Decode one file and tell what is wrong with it."""
    content = b""
    try:
        content = content_of(file)
        facts = header(file, io.BytesIO(content), exif=True)
        pixels = decoded(file, content)
    except UserError as error:
        reason = str(error).removeprefix(f"{file}: ")
        kind = "unreadable-image" if file.exists() else "missing-image"
        return Look(None, _digest(content), None, (Finding(kind, str(file), "", reason),))
    findings = []
    if file.suffix.lower() not in KINDS[facts.kind]:
        message = f"its content is {facts.kind}, its name says {file.suffix}"
        findings.append(Finding("wrong-suffix", str(file), "", message))
    if facts.rotated:
        findings.append(Finding("rotated", str(file), "", "EXIF asks to turn the picture; it is not turned"))
    return Look(facts.size, _digest(content), difference_hash(pixels), tuple(findings))


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
