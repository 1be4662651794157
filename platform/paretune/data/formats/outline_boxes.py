"""Boxes around what labelling tools draw: polygons, circles, ellipses, turned boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from paretune.data.formats.voc_xml import FARTHEST

Box = tuple[float, float, float, float]
"""Corners x1 y1 x2 y2."""
NO_BOX = (math.nan, math.nan, math.nan, math.nan)


def number(value: Any) -> float:
    """Return a number, also one that is written as a text; NaN for what is none, or too large for any image."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or (isinstance(value, str) and "_" in value):
        return math.nan
    try:
        value_read = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return value_read if abs(value_read) <= FARTHEST else math.nan


def around(points: Any) -> Box:
    """Return the box around points, each ``[x, y]`` or ``{"x": …, "y": …}``; NaN where one of them is none."""
    if not isinstance(points, list) or not points:
        return NO_BOX
    pairs = [(point.get("x"), point.get("y")) if isinstance(point, dict) else point for point in points]
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return NO_BOX
    across, down = ([number(pair[side]) for pair in pairs] for side in (0, 1))
    if any(map(math.isnan, (*across, *down))):
        return NO_BOX
    return min(across), min(down), max(across), max(down)


def around_ellipse(x: float, y: float, radii: Sequence[float], degrees: float = 0.0) -> Box:
    """Return the box around an ellipse.

    Args:
        x: of its centre,
        y: of its centre.
        radii: half of its axes, across and down.
        degrees: by which it is turned about its centre, clockwise as pictures are drawn.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across, down = math.hypot(radii[0] * cos, radii[1] * sin), math.hypot(radii[0] * sin, radii[1] * cos)
    return x - across, y - down, x + across, y + down


def around_turned(box: Box, degrees: float, pivot: tuple[float, float]) -> Box:
    """Return the box around a box that is turned about a point, clockwise as pictures are drawn."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x - pivot[0], y - pivot[1]) for x in box[::2] for y in box[1::2]]
    return around([[pivot[0] + x * cos - y * sin, pivot[1] + x * sin + y * cos] for x, y in corners])


def sides(fields: Any, width: str = "width", height: str = "height") -> tuple[int, int] | None:
    """Return the image size in an object's fields; None where there is none, or no positive whole one."""
    size = [number(fields.get(side)) if isinstance(fields, dict) else math.nan for side in (width, height)]
    return (int(size[0]), int(size[1])) if all(side >= 1 and side == int(side) for side in size) else None
