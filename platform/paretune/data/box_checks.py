"""What can be wrong with the boxes of one image, whatever format they are written in."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence

from paretune.core.errors import did_you_mean
from paretune.data.raw_annotations import Finding, RawBox, RawImage

TINY = 4.0
"""Pixels; a box with a shorter side is reported."""
FAR = 2.0
"""A share of the image beyond which a number is no slip, but of another unit."""
CUT = 1.5
"""Pixels that are cut off a box from which on opening a dataset reports it; less is rounding, or counting from 0."""
SLACK = 0.5
"""Pixels that a box may reach over the edge without a finding: rounding to whole pixels."""


def check_boxes(image: RawImage, size: tuple[int, int] | None, classes: Collection[str] | None) -> list[Finding]:
    """Yield a finding for every defect of an image's boxes.

    Args:
        image: with its raw boxes.
        size: (width, height) of the file; None where it cannot be read.
        classes: the allowed classes; None allows all.
    """
    findings = []
    seen: dict[tuple[object, ...], str] = {}
    for box in image.boxes:
        defects = list(_of_one(image, box, size or image.annotated_size))
        if classes is not None and box.name not in classes:
            defects.append(("unknown-class", f"class {box.name!r} is not known{did_you_mean(box.name, classes)}"))
        key = (box.name, *box.box)
        if key in seen and not any(map(math.isnan, box.box)):
            defects.append(("duplicate-box", f"the same box of class {box.name!r} as {seen[key] or 'another'}"))
        seen.setdefault(key, box.where)
        findings += [Finding(kind, str(image.annotation), box.where, message) for kind, message in defects]
    return findings


Corners = tuple[float, float, float, float]


def upright(box: Corners) -> Corners:
    """Return a box whose first corner is the left upper one, whichever two corners are written."""
    x1, y1, x2, y2 = box
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def enclosing(numbers: Sequence[float]) -> Corners:
    """Return the box around points that are written as x, y, x, y, …; NaN where one of the numbers is."""
    if not all(map(math.isfinite, numbers)):
        return (math.nan,) * 4
    across, down = numbers[::2], numbers[1::2]
    return min(across), min(down), max(across), max(down)


def in_pixels(image: RawImage, box: RawBox, size: tuple[int, int] | None) -> Corners | None:
    """Return x1 y1 x2 y2 in pixels, the right way round; None where the image's size is needed and unknown."""
    x1, y1, x2, y2 = upright(box.box)
    if not image.relative:
        return x1, y1, x2, y2
    if size is None:
        return None
    return x1 * size[0], y1 * size[1], x2 * size[0], y2 * size[1]


def kinds_of(box: RawBox, pixels: Corners | None, size: tuple[int, int] | None) -> list[str]:
    """Return what of a box's place is not as it should be: kinds of ``KINDS``, the first ones leave nothing of it."""
    if not all(map(math.isfinite, (*box.box, *(pixels or ())))):
        return ["bad-box"]
    x1, y1, x2, y2 = box.box
    if x2 == x1 or y2 == y1:
        return ["empty-box"]
    kinds = ["inverted-box"] if x2 < x1 or y2 < y1 else []
    if pixels is not None and size is not None and over_edge(pixels, size) > SLACK:
        kinds.append("outside-box")
    return kinds


def other_unit(images: Iterable[RawImage]) -> tuple[int, int, str]:
    """Count the boxes whose numbers can only be of the other unit: pixels among shares, or shares among pixels.

    Returns:
        How many there are, of how many, and the place of the first.
    """
    odd, of, first = 0, 0, ""
    for image in images:
        for box in image.boxes:
            x1, y1, x2, y2 = upright(box.box)
            of += 1
            far = max(x1, y1, x2, y2) > FAR if image.relative else max(x2, y2) <= 1
            odd += far
            first = first or (f"{image.annotation}: {box.where}" if far else "")
    return odd, of, first


def _of_one(image: RawImage, box: RawBox, size: tuple[int, int] | None) -> Iterator[tuple[str, str]]:
    pixels = in_pixels(image, box, size)
    kinds, shown = kinds_of(box, pixels, size), _shown(box.box)
    if "bad-box" in kinds:
        yield "bad-box", f"a coordinate of {shown} is no number"
        return
    if "empty-box" in kinds:
        yield "empty-box", f"box {shown} (x1 y1 x2 y2) has no area"
        return
    if "inverted-box" in kinds:
        yield "inverted-box", f"box {shown} (x1 y1 x2 y2) has its corners the wrong way round"
    if pixels is None:
        return
    if "outside-box" in kinds and size is not None:
        yield "outside-box", _outside(pixels, size)
    side = min(pixels[2] - pixels[0], pixels[3] - pixels[1])
    if side < TINY:
        yield "tiny-box", f"box {_shown(pixels)} is {side:.3g} pixels thin"


def reaches(box: Corners, size: tuple[int, int]) -> bool:
    """Return whether any part of a box lies in the image."""
    return box[2] > box[0] and box[3] > box[1] and box[0] < size[0] and box[1] < size[1] and box[2] > 0 and box[3] > 0


def over_edge(box: Corners, size: tuple[int, int]) -> float:
    """Return how many pixels a box reaches over the edge; infinity where it lies wholly outside."""
    if not reaches(box, size):
        return math.inf
    return max(-box[0], -box[1], box[2] - size[0], box[3] - size[1])


def unit_problem(split: str, images: Sequence[RawImage]) -> str | None:
    """Return why most boxes of a split can only be in another unit than their format's, or None."""
    odd, of, first = other_unit(images)
    if 2 * odd <= of:
        return _corners_problem(split, images)
    most = f"{odd} of {of} boxes of the split {split}"
    if images[0].relative:
        note = f"{most} lie outside: their numbers are no shares (0 to 1) of the image; are these pixels?"
    else:
        note = f"{most} lie within the first pixel: are these shares (0 to 1) of the image, where pixels are expected?"
    return f"{note} the first: {first}"


_FEW = 8
_BEYOND = 1.02
"""Share of an image's size; what lies farther out is no rounding."""


def _corners_problem(split: str, images: Sequence[RawImage]) -> str | None:
    """Return why the widths and heights of a split can only be the second corners, or None.

    As widths, second corners make boxes that reach over the edge; none of them is smaller than the first corner.
    """
    of = over = 0
    for image in images:
        size = (1, 1) if image.relative else image.annotated_size
        if size is None or image.annotation.suffix.lower() == ".xml":
            continue
        for box in image.boxes:
            x1, y1, x2, y2 = upright(box.box)
            x, y = ((x1 + x2) / 2, (y1 + y2) / 2) if image.relative else (x1, y1)
            if not (x2 - x1 > x and y2 - y1 > y):
                return None
            of += 1
            over += x2 > _BEYOND * size[0] or y2 > _BEYOND * size[1]
    if of < _FEW or 5 * over < of:
        return None
    note = f"{over} of {of} boxes of the split {split} reach over the edge, and no width or height is less than x or y"
    return f"{note}: are these second corners (x1 y1 x2 y2)?"


def _outside(box: Corners, size: tuple[int, int]) -> str:
    of = f"the image of {size[0]} x {size[1]} pixels"
    over = over_edge(box, size)
    if over == math.inf:
        return f"box {_shown(box)} lies wholly outside {of}"
    return f"box {_shown(box)} reaches {over:.4g} pixels over {of}"


def _shown(box: Corners) -> str:
    return " ".join(f"{value:.6g}" for value in box)
