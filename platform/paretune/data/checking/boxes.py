"""What can be wrong with the boxes of one image, whatever format they are written in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from paretune.data.checking.findings import Finding, RawBox, RawImage
from paretune.errors import did_you_mean

TINY = 4.0
"""Pixels: a shorter side is told."""
SLACK = 0.5
"""Pixels that a box may reach over the edge without being told: rounding of whole pixels."""


def check_boxes(image: RawImage, size: tuple[int, int] | None, classes: Collection[str] | None) -> list[Finding]:
    """Tell every defect of an image's boxes.

    Args:
        image: with its raw boxes.
        size: (width, height) of the file; None where it cannot be read.
        classes: the allowed ones; None where all are.
    """
    findings = []
    seen: dict[tuple[object, ...], str] = {}
    for box in image.boxes:
        told = list(_of_one(image, box, size or image.told_size))
        if classes is not None and box.name not in classes:
            told.append(("unknown-class", f"class {box.name!r} is not known{did_you_mean(box.name, classes)}"))
        key = (box.name, *box.box)
        if key in seen and not any(map(math.isnan, box.box)):
            told.append(("duplicate-box", f"the same box of class {box.name!r} as {seen[key] or 'another'}"))
        seen.setdefault(key, box.where)
        findings += [Finding(kind, str(image.annotation), box.where, message) for kind, message in told]
    return findings


def in_pixels(image: RawImage, box: RawBox, size: tuple[int, int] | None) -> tuple[float, float, float, float] | None:
    """Return x1 y1 x2 y2 in pixels; None where the image's size is needed and unknown."""
    if not image.relative:
        return box.box
    if size is None:
        return None
    x1, y1, x2, y2 = box.box
    return x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]


def _of_one(image: RawImage, box: RawBox, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    if not all(map(math.isfinite, box.box)):
        yield "bad-box", f"a coordinate of {_shown(box.box)} is no number"
        return
    x1, y1, x2, y2 = box.box
    if x2 < x1 or y2 < y1:
        yield "inverted-box", f"box {_shown(box.box)} (x1 y1 x2 y2) has its corners the wrong way round"
        return
    if x2 == x1 or y2 == y1:
        yield "empty-box", f"box {_shown(box.box)} (x1 y1 x2 y2) has no area"
        return
    pixels = in_pixels(image, box, size)
    if pixels is None:
        return
    if size is not None and (outside := _outside(pixels, size)):
        yield "outside-box", outside
    side = min(pixels[2] - pixels[0], pixels[3] - pixels[1])
    if side < TINY:
        yield "tiny-box", f"box {_shown(pixels)} is {side:.3g} pixels thin"


def _outside(box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    x1, y1, x2, y2 = box
    width, height = size
    if x1 >= width or y1 >= height or x2 <= 0 or y2 <= 0:
        return f"box {_shown(box)} lies wholly outside the image of {width} x {height} pixels"
    over = max(-x1, -y1, x2 - width, y2 - height)
    if over > SLACK:
        return f"box {_shown(box)} reaches {over:.4g} pixels over the image of {width} x {height} pixels"
    return ""


def _shown(box: tuple[float, float, float, float]) -> str:
    return " ".join(f"{value:.6g}" for value in box)
