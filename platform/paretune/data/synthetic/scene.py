"""Painting one picture of flat shapes with the difficulties of a photograph, and its annotations.

Pixels come from additions, multiplications and OpenCV's integer operations alone, without sines and
long floating-point sums, whose last digit differs between processors: the same random numbers give the
same picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Floats, Image, InputSize
from paretune.data.synthetic.textures import background, camera, colour_against, lit, noise, paint_of_hue

SMALLEST, LARGEST = 0.15, 0.48
"""Objects have the area of circles whose diameter is this share of the picture's shorter side; the share is
drawn evenly on a logarithmic scale."""
FEWEST_OBJECTS, MOST_OBJECTS = 2, 9
HIDDEN = 0.25
"""An object of which less than this share is seen is to be ignored."""
CROWDED = 0.45
"""Objects are not put where more than this share of the smaller one's box would lie in another's."""
_FINE = 4
"""Shapes are drawn this many times larger and averaged, which smooths their edges."""


def _regular(corners: int, inner: float = 1.0) -> Floats:
    """Return a regular polygon with the area of a circle of radius 1.

    With ``inner`` below 1 every second corner lies nearer to the centre, by that factor: a star.
    """
    turns = np.arange(corners) * (2 * math.pi / corners)
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    area = corners / 2 * inner * math.sin(2 * math.pi / corners)  # as many triangles as corners
    points = radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return np.asarray(points * (math.pi / area) ** 0.5, np.float32)


OUTLINES: dict[str, Floats] = {
    "circle": _regular(48),
    "hexagon": _regular(6),
    "pentagon": _regular(5),
    "square": _regular(4),
    "star": _regular(10, 0.5),
    "triangle": _regular(3),
}
"""Every class and its outline: (corners, 2), centre 0, all of the same area."""
CLASSES = tuple(OUTLINES)


@dataclass(frozen=True)
class SceneObject:
    """Something flat lying in the picture."""

    outline: Floats
    """(corners, 2) in pixels of the picture; may reach beyond its edges."""
    hole: Floats | None = None
    """An outline inside, through which one sees what lies below."""
    label: int | None = None
    """Index of its class; None for what is not annotated."""
    colour: Floats | None = None
    """(3,) RGB; None takes any that differs from what lies below."""

    @property
    def extent(self) -> Floats:
        """The box (4,) around all of it."""
        return np.concatenate([self.outline.min(0), self.outline.max(0)])

    @property
    def area(self) -> float:
        """Pixels it would cover, were all of it in the picture (shoelace formula)."""
        x, y = self.outline[:, 0].astype(np.float64), self.outline[:, 1].astype(np.float64)
        return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def paint(random: np.random.Generator, size: InputSize, difficulty: float) -> tuple[Image, Annotations]:
    """Paint one picture.

    Args:
        random: where all chance comes from.
        size: of the picture.
        difficulty: 0 (clean) to 1: clutter, lookalikes, uneven light, blur and noise grow with it.

    Returns:
        The picture (H, W, 3) uint8 RGB, and a box around each object's full extent inside the picture,
        hidden parts included.
    """
    canvas = background(random, size, difficulty)
    things = _things(random, size, difficulty)
    owner = np.zeros((size.height, size.width), np.uint8)  # who is seen at each pixel: 1 + index, 0 for nobody
    for index, thing in enumerate(things):
        _lay(random, canvas, owner, thing, index + 1)
    image = camera(random, lit(random, canvas, difficulty), difficulty)
    return image, _annotations(things, owner)


def _things(random: np.random.Generator, size: InputSize, difficulty: float) -> list[SceneObject]:
    """Choose objects, lookalikes and clutter, in the order in which they lie on each other."""
    things: list[SceneObject] = []
    boxes: list[Floats] = []
    objects = int(random.integers(FEWEST_OBJECTS, MOST_OBJECTS + 1))
    lookalikes = int(random.binomial(3, 0.5 * difficulty))
    for index in range(objects + lookalikes):
        for _ in range(8):  # tries to find room
            thing = _shape(random, size, difficulty, lookalike=index >= objects)
            if all(_overlap(thing.extent, box) < CROWDED for box in boxes):
                things.append(thing)
                boxes.append(thing.extent)
                break
    things += [_clutter(random, size) for _ in range(random.binomial(6, 0.6 * difficulty))]
    return [things[i] for i in random.permutation(len(things))]


def _shape(random: np.random.Generator, size: InputSize, difficulty: float, *, lookalike: bool) -> SceneObject:
    """Make an object, or what nearly is one: a shape that is drawn out or has a hole.

    Most have the usual colour of their class, lookalikes too: it is a hint that is learnt early, and
    that alone does not do.
    """
    label = int(random.integers(len(CLASSES)))
    holed = lookalike and random.random() < 0.5
    longer = random.uniform(1.6, 2.2) if lookalike and not holed else random.uniform(1.0, 1.15)
    shorter_side = min(size.width, size.height)
    diameter = shorter_side * SMALLEST * (LARGEST / SMALLEST) ** random.random()
    stretch = np.array([longer**0.5, longer**-0.5]) * diameter / 2
    # turned before it is drawn out too: the corners lie anywhere on the longer axis
    unit = OUTLINES[CLASSES[label]] @ _rotation(random.uniform(0, 2 * math.pi))
    outline = (unit * stretch) @ _rotation(random.uniform(0, 2 * math.pi))
    centre = random.uniform(0.2, 0.8, 2) * diameter + random.random(2) * (
        np.array([size.width, size.height]) - diameter
    )
    hole = outline * random.uniform(0.4, 0.6) + centre if holed else None
    usual = random.random() > 0.6 * difficulty
    colour = paint_of_hue(random, label / len(CLASSES)) if usual else None
    return SceneObject((outline + centre).astype(np.float32), hole, None if lookalike else label, colour)


def _clutter(random: np.random.Generator, size: InputSize) -> SceneObject:
    """Make a bar or an irregular patch."""
    centre = random.random(2) * [size.width, size.height]
    side = min(size.width, size.height)
    if random.random() < 0.5:
        length, width = side * random.uniform(0.3, 1.2), side * random.uniform(0.02, 0.07)
        corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, width / 2]
    else:
        corners = _regular(9) * random.uniform(0.4, 1.0, (9, 1)) * side * random.uniform(0.05, 0.18)
    return SceneObject((corners @ _rotation(random.uniform(0, 2 * math.pi)) + centre).astype(np.float32))


def _rotation(turn: float) -> NDArray[np.float64]:
    return np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def _lay(random: np.random.Generator, canvas: Floats, owner: NDArray[np.uint8], thing: SceneObject, mark: int) -> None:
    """Put one thing on the canvas (H, W, 3), over all that lies there, perhaps with a shadow."""
    height, width = owner.shape
    left, top = np.maximum(np.floor(thing.outline.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(thing.outline.max(0)), [width, height]).astype(int)
    if right <= left or bottom <= top:
        return
    here = np.s_[top:bottom, left:right]
    cover = coverage(thing, left, top, right, bottom)
    if random.random() < 0.4:
        _shadow(random, canvas, cover, left, top)
    below = canvas[here]
    colour = colour_against(random, below) if thing.colour is None else thing.colour
    other = random.uniform(-45, 45, 3)
    slope = random.uniform(-1, 1, 2).astype(np.float32)  # the shading runs in this direction
    across = np.linspace(-1, 1, right - left, dtype=np.float32) * slope[0]
    down = np.linspace(-1, 1, bottom - top, dtype=np.float32) * slope[1]
    shading = (across[None, :] + down[:, None])[..., None] * other.astype(np.float32)
    grain = (noise(random, bottom - top, right - left, (4, 10)) - 0.5)[..., None] * random.uniform(10, 70)
    alpha = cover[..., None] * np.float32(1 / 255)
    canvas[here] = below + (np.clip(colour + shading + grain, 0, 255) - below) * alpha
    owner[here][cover > 127] = mark


def coverage(thing: SceneObject, left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
    """Return how much of each pixel of a window the thing covers: (bottom - top, right - left), 0 to 255."""
    fine = np.zeros(((bottom - top) * _FINE, (right - left) * _FINE), np.uint8)
    for outline, value in ((thing.outline, 255), (thing.hole, 0)):
        if outline is not None:
            # OpenCV counts from pixel centres, in 16ths of a pixel here
            corners = ((outline - [left, top]) * _FINE - 0.5) * 16
            cv2.fillPoly(fine, [np.rint(corners).astype(np.int32)], value, shift=4)
    return np.asarray(cv2.resize(fine, (right - left, bottom - top), interpolation=cv2.INTER_AREA), np.uint8)


def _shadow(random: np.random.Generator, canvas: Floats, cover: NDArray[np.uint8], left: int, top: int) -> None:
    """Darken what lies beside a thing, towards the right and below."""
    reach = int(random.integers(2, 6))
    soft = cv2.blur(cv2.copyMakeBorder(cover, reach, reach, reach, reach, cv2.BORDER_CONSTANT), (reach, reach))
    room = canvas[top : top + soft.shape[0], left : left + soft.shape[1]]
    room *= 1 - soft[: room.shape[0], : room.shape[1], None] * np.float32(0.5 / 255)


def _annotations(things: list[SceneObject], owner: NDArray[np.uint8]) -> Annotations:
    """Return the annotations of the objects that can be seen at all."""
    seen = np.bincount(owner.ravel(), minlength=len(things) + 1)[1:]
    kept = [(t, n) for t, n in zip(things, seen, strict=True) if t.label is not None and n > 0]
    height, width = owner.shape
    boxes = np.array([thing.extent for thing, _ in kept], np.float32).reshape(-1, 4)
    return Annotations(
        boxes=np.clip(boxes, 0, np.array([width, height, width, height], np.float32)),
        labels=np.array([thing.label for thing, _ in kept], np.int64),
        ignore=np.array([pixels < HIDDEN * thing.area for thing, pixels in kept], bool),
    )


def _overlap(one: Floats, other: Floats) -> float:
    """Return which share of the smaller of two boxes (4,) lies in the larger."""
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    areas = [float((box[2] - box[0]) * (box[3] - box[1])) for box in (one, other)]
    return float(sides[0] * sides[1]) / min(areas)
