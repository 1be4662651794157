"""Values of COCO's JSON files as programs write them: ids, numbers, flags, and boxes of segmentations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.data.box_checks import Corners, enclosing
from paretune.data.formats.outline_boxes import number

_MOST_RUNS = 10_000_000


def id_of(value: Any) -> int | str | None:
    """Return an id as COCO's own tools compare it: 1.0 is 1, a text is a text; None for what is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int | str) else None


def as_text(value: int | str) -> str:
    """Return what an id and the same id written as a text have in common: 1, "1" and "1.0" are "1"."""
    text = str(value).strip()
    whole, dot, rest = text.partition(".")
    return whole if dot and whole.isdecimal() and not rest.strip("0") else text


def flag_of(value: Any) -> bool | None:
    """Return a flag, also one that is written as a number or a text; no value is no; None for what is neither."""
    if value is None or value == "" or value != value or isinstance(value, bool):  # noqa: PLR0124 - pandas' NaN
        return value is True
    flag = number({"true": 1, "false": 0}.get(value.strip().lower(), value) if isinstance(value, str) else value)
    return {0.0: False, 1.0: True}.get(flag)


def box_of(outline: Any) -> Corners | None:
    """Return the corners of ``[x, y, width, height]``; None for anything else."""
    if not isinstance(outline, list) or len(outline) != 4:
        return None
    x, y, width, height = map(number, outline)
    return x, y, x + width, y + height


def box_of_segmentation(outline: Any, size: tuple[int, int] | None = None) -> Corners | None:
    """Return the box around an outline: polygons (``[[x, y, x, y, …], …]``), or runs of pixels (RLE); else None.

    Runs are read by pycocotools; polygons keep their fractions of pixels, as the boxes of COCO's own files do.

    Args:
        outline: as it is written.
        size: (width, height) of the image, which runs must have too; None where it is not known.
    """
    if isinstance(outline, Mapping):
        return _of_runs(outline, size)
    if not isinstance(outline, list) or not outline:
        return None
    polygons = outline if isinstance(outline[0], list) else [outline]
    if not all(isinstance(part, list) and len(part) >= 6 and len(part) % 2 == 0 for part in polygons):
        return None
    box = enclosing([number(value) for part in polygons for value in part])
    return None if any(map(math.isnan, box)) else box


def _of_runs(outline: Mapping[str, Any], of: tuple[int, int] | None) -> Corners | None:
    counts, size = outline.get("counts"), outline.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(0 < number(side) <= 100_000 for side in size):
        return None
    height, width = (int(number(side)) for side in size)
    if of not in (None, (width, height)):
        return None
    if isinstance(counts, str):
        runs = _runs_of(counts)
    elif isinstance(counts, list) and len(counts) <= _MOST_RUNS:
        runs = [int(n) if (n := number(count)) >= 0 else -1 for count in counts]  # NaN is not
    else:
        return None
    if not runs or min(runs) < 0 or sum(runs) != height * width:
        return None
    from pycocotools import mask

    x, y, across, down = mask.toBbox(
        mask.frPyObjects({"counts": runs, "size": [height, width]}, height, width)
    ).tolist()
    return x, y, x + across, y + down


def _runs_of(text: str) -> Sequence[int]:
    """Decode COCO's compressed runs as ``rleFrString`` of its maskApi.c, which reads past the end of a wrong text."""
    runs: list[int] = []
    value, shift = 0, 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            return []
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    return runs if shift == 0 else []
