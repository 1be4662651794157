"""What makes a painted picture look like a photograph: textures, light, and a camera's faults."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from paretune.core.types import Floats, Image, InputSize


def noise(random: np.random.Generator, height: int, width: int, cells: Sequence[int]) -> Floats:
    """Return smooth noise (height, width) in [0, 1]: the mean of grids of random cells, coarse ones weighing more.

    Args:
        random: where it comes from.
        height: in pixels.
        width: in pixels.
        cells: cells along the width of each grid.
    """
    total = np.zeros((height, width), np.float32)
    weights = 0.0
    for count in cells:
        rows = max(2, round(count * height / width))
        grid = random.integers(0, 256, (rows, count), np.uint8)
        weight = 1 / count**0.5
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * np.float32(weight)
        weights += weight
    return total * np.float32(1 / (255 * weights))


def background(random: np.random.Generator, size: InputSize, difficulty: float) -> Floats:
    """Return a textured ground (H, W, 3) in [0, 255]: two colours mixed by noise, with stripes or a gradient."""
    height, width = size.height, size.width
    mix = noise(random, height, width, (3, 7, 17, 43, 97))
    mix = np.clip((mix - 0.5) * np.float32(1.5 + 2 * difficulty) + 0.5, 0, 1)
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    kind = random.random()
    direction = random.uniform(-1, 1, 2).astype(np.float32)
    along = x * direction[0] + y * direction[1]
    if kind < 0.35:  # stripes: a triangular wave
        period = np.float32(random.uniform(6, 40))
        wave = np.abs(np.mod(along, period) * (2 / period) - 1)
        mix = mix + (wave - mix) * np.float32(random.uniform(0.2, 0.7))
    elif kind < 0.7:  # gradient
        ramp = (along - along.min()) / max(float(along.max() - along.min()), 1.0)
        mix = mix + (ramp - mix) * np.float32(random.uniform(0.3, 0.8))
    first, second = random.uniform(20, 235, (2, 3)).astype(np.float32)
    grey = first.mean()
    first, second = grey + (first - grey) * 0.6, grey + (second - grey) * 0.6  # grounds are paler than things
    return np.asarray(first + (second - first) * mix[..., None], np.float32)


def colour_against(random: np.random.Generator, ground: Floats) -> Floats:
    """Return a colour (3,) that differs visibly from the ground (h, w, 3) under it."""
    middle = ground[:: max(1, len(ground) // 4), :: max(1, ground.shape[1] // 4)].reshape(-1, 3)
    around = np.sort(middle, axis=0)[len(middle) // 2]  # the median: no sum whose order could matter
    colour = random.uniform(0, 255, 3).astype(np.float32)
    for _ in range(4):
        if np.abs(colour - around).max() > 60:
            break
        colour = random.uniform(0, 255, 3).astype(np.float32)
    return colour


def paint_of_hue(random: np.random.Generator, hue: float) -> Floats:
    """Return a colour (3,) near a hue in [0, 1): 0 is red, 1/3 green, 2/3 blue; more or less bright and pale."""
    around = (hue + random.uniform(-0.05, 0.05) + np.array([0, 2 / 3, 1 / 3])) % 1
    pure = np.clip(np.abs(around * 6 - 3) - 1, 0, 1)  # the hexagonal colour wheel
    pale, bright = random.uniform(0.0, 0.5), random.uniform(110, 255)
    return np.asarray((pure + (1 - pure) * pale) * bright, np.float32)


def lit(random: np.random.Generator, canvas: Floats, difficulty: float) -> Floats:
    """Return the canvas under uneven light, perhaps with a shadow cast over a part of it."""
    height, width = canvas.shape[:2]
    light = 1 + (noise(random, height, width, (2, 4)) - 0.5) * np.float32(1.2 * difficulty)
    if random.random() < 0.6 * difficulty:
        dark = np.zeros((height, width), np.uint8)
        corners = random.random((4, 2)) * [width * 1.6, height * 1.6] - [width * 0.3, height * 0.3]
        cv2.fillPoly(dark, [cv2.convexHull(np.rint(corners).astype(np.int32))], 255)
        soft = int(random.integers(2, 12)) * 2 + 1
        light = light * (1 - cv2.blur(dark, (soft, soft)) * np.float32(random.uniform(0.3, 0.6) / 255))
    return canvas * light[..., None]


def camera(random: np.random.Generator, canvas: Floats, difficulty: float) -> Image:
    """Return what a camera makes of it: blurred or not, noisy, compressed as JPEG; (H, W, 3) uint8."""
    picture = np.clip(canvas, 0, 255).astype(np.uint8)
    kind = random.random()
    if kind < 0.3 * difficulty:  # out of focus
        picture = cv2.GaussianBlur(picture, (0, 0), random.uniform(0.5, 1.4))
    elif kind < 0.5 * difficulty:  # moved
        reach = int(random.integers(2, 5))
        picture = cv2.blur(picture, (reach, 1) if random.random() < 0.5 else (1, reach))
    # four uniform numbers make a nearly normal one of standard deviation 148
    grain = random.integers(0, 256, (4, *picture.shape), np.uint8).sum(0, np.int16).astype(np.float32) - 510
    noisy = picture + grain * np.float32(random.uniform(1, 3 + 11 * difficulty) / 148)
    picture = np.clip(noisy, 0, 255).astype(np.uint8)
    quality = int(random.integers(round(92 - 45 * difficulty), 96))
    _, file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])  # RGB or BGR: of no matter here
    return np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)
