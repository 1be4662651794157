"""SSD's default boxes, in numpy. Liu et al., SSD, ECCV 2016 (arXiv:1512.02325), section 2.2."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from paretune.core.types import Floats

Ratios = tuple[tuple[int, ...], ...]
"""Aspect ratios of each level; each gives a flat and an upright box, beside two squares."""
CENTRE_WEIGHT, SIZE_WEIGHT = 10.0, 5.0
"""Offsets are learnt times these: the inverse variances of the paper's code."""
LARGEST = math.log(1000 / 16)
"""Largest logarithm of a side over its default box's."""


def boxes_per_cell(ratios: Ratios) -> list[int]:
    """Return the number of default boxes in a cell of each level."""
    return [2 + 2 * len(level) for level in ratios]


@functools.lru_cache(maxsize=16)
def default_boxes(
    shapes: tuple[tuple[int, int], ...],
    ratios: Ratios,
    scales: tuple[float, ...],
    size: tuple[int, int],
    strides: tuple[int, ...] | None,
) -> Floats:
    """Return the default boxes (N, 4), x1 y1 x2 y2 in pixels, level by level, cell by cell, box by box.

    Args:
        shapes: (rows, columns) of each level.
        ratios: aspect ratios of each level.
        scales: sides of the square boxes of each level, in shares of the image, and one more.
        size: (width, height) of the network's input.
        strides: pixels between the cells of each level; None spreads the cells over the image.
    """
    levels = []
    for level, (rows, columns) in enumerate(shapes):
        sides = np.clip(np.array(_sides(ratios[level], scales[level], scales[level + 1]), np.float32), 0, 1)
        across, down = (columns, rows) if strides is None else (size[0] / strides[level], size[1] / strides[level])
        y, x = np.meshgrid((np.arange(rows) + 0.5) / down, (np.arange(columns) + 0.5) / across, indexing="ij")
        centres = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
        corners = [centres[:, None] - 0.5 * sides, centres[:, None] + 0.5 * sides]
        levels.append(np.concatenate(corners, axis=2).reshape(-1, 4))
    boxes = np.concatenate(levels) * np.array([*size, *size], np.float32)
    boxes.setflags(write=False)
    return np.asarray(boxes, np.float32)


def even_scales(levels: int, smallest: float, largest: float) -> tuple[float, ...]:
    """Return evenly spaced scales from the smallest to the largest, and 1."""
    step = (largest - smallest) / (levels - 1)
    return (*(smallest + step * level for level in range(levels)), 1.0)


def _sides(ratios: Sequence[int], scale: float, following: float) -> list[tuple[float, float]]:
    between = math.sqrt(scale * following)
    sides = [(scale, scale), (between, between)]
    for ratio in ratios:
        long, short = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
        sides += [(long, short), (short, long)]
    return sides
