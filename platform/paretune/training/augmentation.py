"""Random changes of training images and their boxes, in numpy and OpenCV, which several threads can run.

Every function takes its own random generator, so that results depend neither on the number of threads nor on where a
training was resumed. torchvision.transforms.v2 has most of these functions, but draws from torch's global state, which
threads cannot share; the tests compare with it.

A box is kept while a quarter of its area, and one pixel in each direction, lies in the image, an entry to ignore while
any part of it does; both are clipped to the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Floats, Image, InputSize

SMALLEST_PART = 0.25
"""Smallest share of a box's area inside the image for it to be kept."""
CROP_OVERLAPS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Overlaps (intersection over union) of an object with a crop, of which one is drawn."""
CROP_TRIALS = 40
SMALLEST_CROP = 0.3
"""Shortest side of a crop, as a share of the image's side."""
LARGEST_AREA = 4.0
"""Longest side of the grey area around an image, as a multiple of the image's side."""


@dataclass(frozen=True)
class AugmentedImage:
    """An image without padding, with boxes in its own pixels."""

    image: Image
    """(height, width, 3) RGB uint8."""
    annotations: Annotations


def mirrored(picture: AugmentedImage) -> AugmentedImage:
    """Return the mirror image, with left and right swapped."""
    boxes = picture.annotations.boxes.copy()
    boxes[:, [0, 2]] = picture.image.shape[1] - picture.annotations.boxes[:, [2, 0]]
    annotations = Annotations(boxes, picture.annotations.labels, picture.annotations.ignore)
    return AugmentedImage(np.ascontiguousarray(picture.image[:, ::-1]), annotations)


def seen(annotations: Annotations, boxes: Floats, width: float, height: float) -> Annotations:
    """Return the annotations with moved boxes (N, 4), clipped to the image and without those outside."""
    limits = np.array([width, height, width, height], np.float32)
    cut = np.clip(boxes, 0, limits).astype(np.float32)
    whole, left = (np.maximum(b[:, 2:] - b[:, :2], 0) for b in (boxes, cut))
    kept = (left.prod(1) >= SMALLEST_PART * whole.prod(1)) & (left >= np.minimum(whole, 1.0)).all(1)
    kept = (kept | annotations.ignore) & (left.prod(1) > 0)
    return Annotations(cut[kept], annotations.labels[kept], annotations.ignore[kept])


def recoloured(image: Image, strength: float, random: np.random.Generator) -> Image:
    """Return an image with other brightness, contrast, saturation and hue, each changed with probability 0.5.

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
    """Return a crop that overlaps an object by a drawn amount, with the objects whose centre lies in it.

    Liu et al., SSD, arXiv:1512.02325, section 2.2. Without objects, or if no crop is found, the image is unchanged.
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
    """Return the image at a drawn place of a filled area, one to four times its sides (SSD, arXiv:1512.02325, 3.6)."""
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
    """Return an image scaled and moved onto a canvas, clipped to it.

    Args:
        picture: image of any size.
        zoom: pixels of the canvas for one pixel of the image.
        centre: x and y of a point of the image.
        at: x and y of this point on the canvas.
        size: of the canvas.
        fill: colour of the canvas outside the image.
    """
    import cv2

    image, zooms = picture.image, np.array([zoom, zoom])
    while zooms.max() < 0.5 and min(image.shape[:2]) > 1:  # bilinear interpolation skips pixels below half size
        height, width = image.shape[0] // 2, image.shape[1] // 2
        zooms *= [image.shape[1] / width, image.shape[0] / height]
        image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA))
    offset = np.array(at) - np.array(centre) * zoom
    # OpenCV measures from the centre of the first pixel, boxes from its corner
    matrix = np.column_stack([np.diag(zooms), offset + (zooms - 1) / 2])
    value = fill if isinstance(fill, tuple) else (fill,) * 3
    shape = (size.width, size.height)
    image = cv2.warpAffine(image, matrix, shape, borderMode=cv2.BORDER_CONSTANT, borderValue=value)
    boxes = picture.annotations.boxes * np.float32(zoom) + np.tile(offset, 2).astype(np.float32)
    return AugmentedImage(np.asarray(image, np.uint8), seen(picture.annotations, boxes, size.width, size.height))


def mosaic(four: list[AugmentedImage], size: InputSize, fill: Any, random: np.random.Generator) -> AugmentedImage:
    """Return four images around a drawn point, on a canvas of twice the input's sides.

    Bochkovskiy et al., YOLOv4, arXiv:2004.10934; the point lies in the middle half of the canvas, as in YOLOX.
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
    """Return the annotations of several images as those of one."""
    return Annotations(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.ignore for part in parts]),
    )


def _overlaps(boxes: Floats, corner: NDArray[np.float64], part: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the intersection over union (N,) of boxes with one part of the image."""
    common = np.minimum(boxes[:, 2:], corner + part) - np.maximum(boxes[:, :2], corner)
    shared = common.clip(0).prod(1)
    return np.asarray(shared / ((boxes[:, 2:] - boxes[:, :2]).prod(1) + part.prod() - shared))
