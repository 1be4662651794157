"""Random changes of training pictures and their boxes, in numpy and OpenCV: threads can share the work.

Every function takes its own random generator, so what comes out depends on nothing else: not on the
number of threads, nor on where a training was resumed. torchvision.transforms.v2 has most of these, but
draws from torch's global state, which threads cannot share; the tests compare with its functions.

A box is kept while a quarter of its area, and one pixel each way, is in the picture, and an entry to ignore while any
part of it is; what is kept is cut off at the picture's edges. Boxes that a change does not touch stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Floats, Image, InputSize

SMALLEST_PART = 0.25
"""Least share of a box's area that must still be seen."""
CROP_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Overlaps (intersection over union) of an object with a crop, one of which is drawn."""
CROP_TRIALS = 40
SMALLEST_CROP = 0.3
"""Shortest side of a crop, as a share of the picture's."""
LARGEST_AREA = 4.0
"""Longest side of the grey area that a picture is put on, in sides of the picture."""


@dataclass(frozen=True)
class AugmentedImage:
    """An image, all of it picture and nothing filled up, with its boxes in its own pixels."""

    image: Image
    """(height, width, 3) RGB uint8."""
    annotations: Annotations


def mirrored(picture: AugmentedImage) -> AugmentedImage:
    """Swap left and right."""
    boxes = picture.annotations.boxes.copy()
    boxes[:, [0, 2]] = picture.image.shape[1] - picture.annotations.boxes[:, [2, 0]]
    found = Annotations(boxes, picture.annotations.labels, picture.annotations.ignore)
    return AugmentedImage(np.ascontiguousarray(picture.image[:, ::-1]), found)


def seen(annotations: Annotations, boxes: Floats, width: float, height: float) -> Annotations:
    """Return the annotations with boxes (N, 4) that were moved, cut off at the edges; lost ones are left out."""
    limits = np.array([width, height, width, height], np.float32)
    cut = np.clip(boxes, 0, limits).astype(np.float32)
    whole, left = (np.maximum(b[:, 2:] - b[:, :2], 0) for b in (boxes, cut))
    kept = (left.prod(1) >= SMALLEST_PART * whole.prod(1)) & (left >= np.minimum(whole, 1.0)).all(1)
    kept = (kept | annotations.ignore) & (left.prod(1) > 0)
    return Annotations(cut[kept], annotations.labels[kept], annotations.ignore[kept])


def recoloured(image: Image, strength: float, random: np.random.Generator) -> Image:
    """Change brightness, contrast, saturation and hue, each of them in half of the pictures.

    At strength 1 the ranges are SSD's (Liu et al., arXiv:1512.02325, after Howard, arXiv:1312.5402).
    """
    import cv2

    chosen = random.random(4) < 0.5
    brightness, contrast, saturation, hue = random.uniform(-1, 1, 4) * strength * [0.125, 0.5, 0.5, 0.05] * chosen
    if brightness or contrast:
        mean = float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]) * (1 + brightness)
        levels = np.arange(256) * (1 + brightness) * (1 + contrast) - mean * contrast
        image = np.asarray(cv2.LUT(image, np.clip(levels.round(), 0, 255).astype(np.uint8)))
    if saturation or hue:
        tables = np.empty((1, 256, 3), np.uint8)
        tables[0, :, 0] = (np.arange(256) + round(hue * 180)) % 180
        tables[0, :, 1] = np.clip((np.arange(256) * (1 + saturation)).round(), 0, 255)
        tables[0, :, 2] = np.arange(256)
        image = np.asarray(cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables), cv2.COLOR_HSV2RGB))
    return np.asarray(image, np.uint8)


def cropped(picture: AugmentedImage, random: np.random.Generator) -> AugmentedImage:
    """Cut out a part that overlaps some object by an amount that is drawn; objects whose centre is out are lost.

    Liu et al., SSD, arXiv:1512.02325, section 2.2. Without objects, or if no part is found, nothing is cut.
    """
    height, width = picture.image.shape[:2]
    truth = picture.annotations
    boxes = truth.boxes[~truth.ignore]
    least = random.choice(CROP_OVERLAPS)
    for _ in range(CROP_TRIALS if len(boxes) else 0):
        part = np.floor(random.uniform(SMALLEST_CROP, 1, 2) * [width, height]).clip(1)
        corner = np.floor(random.random(2) * ([width, height] - part))
        if not 0.5 <= part[0] / part[1] <= 2 or _overlaps(boxes, corner, part).max() < least:
            continue
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > corner) & (centres < corner + part)).all(1)
        if inside.any():
            x, y, right, bottom = (int(v) for v in (*corner, *(corner + part)))
            limits = np.array([*part, *part], np.float32)
            moved = (truth.boxes - np.array([x, y, x, y], np.float32)).clip(0, limits)
            kept = np.asarray((moved[:, 2:] > moved[:, :2]).all(1))
            kept[~truth.ignore] = inside
            cut = Annotations(moved[kept], truth.labels[kept], truth.ignore[kept])
            return AugmentedImage(np.ascontiguousarray(picture.image[y:bottom, x:right]), cut)
    return picture


def zoomed_out(picture: AugmentedImage, fill: Any, random: np.random.Generator) -> AugmentedImage:
    """Put the picture somewhere on a filled area of one to four times its sides (SSD, arXiv:1512.02325, 3.6)."""
    height, width = picture.image.shape[:2]
    ratio = random.uniform(1, LARGEST_AREA)
    wide, high = int(width * ratio), int(height * ratio)
    x, y = (int(v) for v in random.random(2) * [wide - width + 1, high - height + 1])
    area = np.full((high, wide, 3), fill, np.uint8)
    area[y : y + height, x : x + width] = picture.image
    truth = picture.annotations
    return AugmentedImage(
        area, Annotations(truth.boxes + np.array([x, y, x, y], np.float32), truth.labels, truth.ignore)
    )


def rescaled(
    picture: AugmentedImage,
    zoom: float,
    centre: tuple[float, float],
    at: tuple[float, float],
    size: InputSize,
    fill: Any,
) -> AugmentedImage:
    """Show a picture larger or smaller on a canvas, and cut off what leaves it.

    Args:
        picture: of any size; nothing is resized besides the zoom.
        zoom: pixels of the canvas for one of the picture.
        centre: a point of the picture, x and y in its pixels,
        at: and where on the canvas it comes.
        size: of the canvas.
        fill: what is put where the picture does not reach.
    """
    import cv2

    image, zooms = picture.image, np.array([zoom, zoom])
    while zooms.max() < 0.5 and min(image.shape[:2]) > 1:  # bilinear alone skips pixels below half size
        height, width = image.shape[0] // 2, image.shape[1] // 2
        zooms *= [image.shape[1] / width, image.shape[0] / height]
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    offset = np.array(at) - np.array(centre) * zoom
    # OpenCV counts from the middle of the first pixel, boxes from its corner
    matrix = np.column_stack([np.diag(zooms), offset + (zooms - 1) / 2])
    value = fill if isinstance(fill, tuple) else (fill,) * 3
    shape = (size.width, size.height)
    image = cv2.warpAffine(image, matrix, shape, borderMode=cv2.BORDER_CONSTANT, borderValue=value)
    boxes = picture.annotations.boxes * np.float32(zoom) + np.tile(offset, 2).astype(np.float32)
    return AugmentedImage(np.asarray(image, np.uint8), seen(picture.annotations, boxes, size.width, size.height))


def mosaic(four: list[AugmentedImage], size: InputSize, fill: Any, random: np.random.Generator) -> AugmentedImage:
    """Put four pictures around a point that is drawn, on a canvas of twice the input's sides.

    Bochkovskiy et al., YOLOv4, arXiv:2004.10934; the point lies in the canvas's middle half, as in YOLOX.
    """
    area = np.full((2 * size.height, 2 * size.width, 3), fill, np.uint8)
    middle_x = int(random.uniform(0.5, 1.5) * size.width)
    middle_y = int(random.uniform(0.5, 1.5) * size.height)
    parts = []
    for place, picture in enumerate(four):
        height, width = picture.image.shape[:2]
        left = middle_x - (width if place % 2 == 0 else 0)
        top = middle_y - (height if place < 2 else 0)
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, 2 * size.width), min(top + height, 2 * size.height)
        area[y1:y2, x1:x2] = picture.image[y1 - top : y2 - top, x1 - left : x2 - left]
        moved = picture.annotations.boxes + np.array([left, top, left, top], np.float32)
        parts.append(seen(picture.annotations, moved, 2 * size.width, 2 * size.height))
    return AugmentedImage(area, joined(parts))


def joined(parts: list[Annotations]) -> Annotations:
    """Return the annotations of several pictures as those of one."""
    return Annotations(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.ignore for part in parts]),
    )


def _overlaps(boxes: Floats, corner: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (N,) intersection over union of boxes with one part of the picture."""
    common = np.minimum(boxes[:, 2:], corner + part) - np.maximum(boxes[:, :2], corner)
    shared = common.clip(0).prod(1)
    return np.asarray(shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + part.prod() - shared))
