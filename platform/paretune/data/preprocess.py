"""The preprocessing of images into the network's input, shared by training, evaluation and the artefact."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Floats, Image, InputSize

Shrinking = Literal["halved as often as it goes, then bilinear", "bilinear in float"]
"""How an image is made smaller, as manifests name it: averaged and rounded to 8 bits, or as torchvision's detectors do,
without averaging and without rounding."""
SHRINKING: Shrinking = "halved as often as it goes, then bilinear"
IN_FLOAT: Shrinking = "bilinear in float"
_MAYBE = ("shortest", "longest")
"""Fields that a manifest has only where they are used: older ones have none."""


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _three(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(map(_number, value))


_RIGHT: dict[str, Callable[[Any], bool]] = {
    "resize": lambda value: value in ("letterbox", "stretch"),
    "fill": lambda value: value == "mean" or (_whole(value) and 0 <= value <= 255),
    "order": lambda value: value in ("rgb", "bgr"),
    "scale": _number,
    "mean": _three,
    "std": lambda value: _three(value) and all(value),
    "shrinking": lambda value: value in get_args(Shrinking),
    "shortest": lambda value: value is None or (_whole(value) and value >= 1),
    "longest": lambda value: value is None or (_whole(value) and value >= 1),
}
"""What each field of a manifest may be."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input: scaled, top left corner on top left corner."""

    scale_x: float
    scale_y: float
    width: int
    height: int
    """Size of the image itself, in pixels."""

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the image in the network's input; what lies right of it and below is filled up."""
        return round(self.width * self.scale_x), round(self.height * self.scale_y)

    def to_input(self, boxes: Floats) -> Floats:
        """Turn boxes (N, 4) from image pixels into input pixels."""
        return boxes * self._scales()

    def to_image(self, boxes: Floats) -> Floats:
        """Turn boxes (N, 4) from input pixels into image pixels, cut off at the image's edges."""
        limits = np.array([self.width, self.height, self.width, self.height], np.float32)
        return np.asarray(np.clip(boxes / self._scales(), 0, limits))

    def _scales(self) -> Floats:
        return np.array([self.scale_x, self.scale_y, self.scale_x, self.scale_y], np.float32)


@dataclass(frozen=True)
class Preprocess:
    """Resize and channel order of one detector family."""

    resize: Literal["letterbox", "stretch"]
    """How an image fits: letterbox keeps the proportions and fills the rest; stretch does not."""
    fill: int | Literal["mean"] = 114
    """Grey level of the rest; mean is what the network sees as 0."""
    order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    """What pixel values are multiplied by."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Subtracted and divided by after scaling, in the order of the channels."""
    shrinking: Shrinking = SHRINKING
    shortest: int | None = None
    """The shorter side that a letterboxed image gets, as torchvision's ``min_size``; None fills the input. Where the
    input has no room for that, it gets what there is."""
    longest: int | None = None
    """Most that its longer side gets then, as torchvision's ``max_size``."""

    def tree(self) -> dict[str, Any]:
        """Return all that it does as plain data."""
        return {name: value for name, value in asdict(self).items() if name not in _MAYBE or value is not None}

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Preprocess:
        """Read what ``tree`` has written.

        Raises:
            ValueError: it names something that this Paretune does not do.
        """
        fields = cls.__dataclass_fields__
        if odd := sorted((tree.keys() - fields) | (fields.keys() - tree.keys() - set(_MAYBE))):
            raise ValueError(f"{odd[0]} is {'told and unknown' if odd[0] in tree else 'not told'}")
        for name, value in tree.items():
            if not _RIGHT[name](value):
                raise ValueError(f"{name} is {value!r}, which is not known here")
        if tree.get("shortest") is None and tree.get("longest") is not None:
            raise ValueError("longest is told, and shortest is not")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()
        }
        return cls(**values)

    @property
    def filling(self) -> int | tuple[int, ...]:
        """Grey level or RGB colour of the rest of an 8-bit picture."""
        if self.fill != "mean":
            return self.fill
        levels = tuple(round(mean / self.scale) for mean in self.mean)
        return levels[::-1] if self.order == "bgr" else levels

    def larger(self, factor: float) -> Preprocess:
        """Return the same for inputs that are larger by a factor: images fill as much of them."""
        longer = {name: round(side * factor) for name in _MAYBE if (side := getattr(self, name)) is not None}
        return replace(self, **longer)

    def place(self, width: int, height: int, size: InputSize) -> Placement:
        """Return where an image of so many pixels comes to lie in an input of this size."""
        inner = size.width, size.height
        if self.resize == "letterbox":
            inner = self._letterboxed(width, height, size)
        return Placement(inner[0] / width, inner[1] / height, width, height)

    def _letterboxed(self, width: int, height: int, size: InputSize) -> tuple[int, int]:
        if self.shortest is not None:
            ratio = self.shortest / min(width, height)
            if self.longest is not None:
                ratio = min(ratio, self.longest / max(width, height))
            inner = max(1, int(width * ratio)), max(1, int(height * ratio))  # cut off, as torch's interpolate does
            if inner[0] <= size.width and inner[1] <= size.height:
                return inner
        ratio = min(size.width / width, size.height / height)
        return max(1, round(width * ratio)), max(1, round(height * ratio))

    def fit(self, image: Image, size: InputSize) -> tuple[Image, Placement]:
        """Resize an RGB image (H, W, 3) uint8 to the input size, in 8 bits, for pictures that are changed further.

        Returns:
            The picture (height, width, 3) uint8 RGB, and where the image lies in it.
        """
        placement = self.place(image.shape[1], image.shape[0], size)
        width, height = placement.inner
        if self.shrinking == IN_FLOAT:
            levels = np.tile(np.arange(256, dtype=np.float32), (3, 1))
            resized = _bilinear(image, width, height, levels).round().astype(np.uint8).transpose(1, 2, 0)
        else:
            resized = _halved(image, width, height)
        if (width, height) == (size.width, size.height):
            return np.asarray(resized, np.uint8), placement
        canvas = np.full((size.height, size.width, 3), self.filling, np.uint8)
        canvas[:height, :width] = resized
        return canvas, placement

    def tensor(self, fitted: Image) -> Floats:
        """Turn a fitted image (H, W, 3) uint8 RGB into what the network sees, (3, H, W) float32."""
        channels = fitted[..., ::-1] if self.order == "bgr" else fitted
        planes = np.ascontiguousarray(channels.transpose(2, 0, 1)).astype(np.float32)
        if self.scale != 1:
            planes *= np.float32(self.scale)
        if any(self.mean) or self.std != (1.0, 1.0, 1.0):
            planes -= np.asarray(self.mean, np.float32)[:, None, None]
            planes /= np.asarray(self.std, np.float32)[:, None, None]
        return planes

    def __call__(self, image: Image, size: InputSize) -> tuple[Floats, Placement]:
        """Turn an RGB image (H, W, 3) uint8 into the network's input.

        Returns:
            The input (3, height, width) float32, and where the image lies in it.
        """
        placement = self.place(image.shape[1], image.shape[0], size)
        width, height = placement.inner
        if self.shrinking == IN_FLOAT:
            planes = _bilinear(image[..., ::-1] if self.order == "bgr" else image, width, height, self._levels)
        else:
            planes = self.tensor(_halved(image, width, height))
        if (width, height) == (size.width, size.height):
            return planes, placement
        rest = 0 if self.fill == "mean" else self.tensor(np.full((1, 1, 3), self.fill, np.uint8))
        canvas = np.empty((3, size.height, size.width), np.float32)
        canvas[:, :height, :width] = planes
        canvas[:, height:] = rest
        canvas[:, :height, width:] = rest
        return canvas, placement

    @cached_property
    def _levels(self) -> Floats:
        """What the network sees of the values of each channel, (3, 256), computed in the steps of torchvision."""
        values = np.arange(256, dtype=np.float32) / np.float32(1 / self.scale)
        mean, std = (np.asarray(three, np.float32)[:, None] for three in (self.mean, self.std))
        return np.asarray((values - mean) / std, np.float32)


def shown(batch: Floats) -> Floats:
    """Return width and height (B, 2) of the pictures in inputs (B, 3, H, W) that are filled up with zeros.

    What is filled with anything else, or all zero, counts as picture: no picture has an edge that is 0 in every
    channel, since no mean is a whole grey level.
    """
    sizes = np.array([batch.shape[:1:-1]] * len(batch), np.float32)
    for number, planes in enumerate(batch):
        for place, lines in enumerate((planes.transpose(2, 0, 1), planes.transpose(1, 0, 2))):
            last = next((at for at in range(len(lines), 0, -1) if lines[at - 1].any()), None)
            if last is not None:
                sizes[number, place] = last
    return sizes


def _bilinear(image: Image, width: int, height: int, levels: Floats) -> Floats:
    """Resize in float as torch's ``interpolate`` does it without corners aligned.

    Bit for bit where OpenCV multiplies and adds in one rounding, as torch does: on any x86 of the last ten years;
    elsewhere within a rounding. OpenCV's own ``resize`` puts pixels up to 6e-5 of one elsewhere, which networks make
    tenths of a pixel of.

    Args:
        image: (H, W, 3) uint8.
        width: of the result,
        height: and its height.
        levels: (3, 256) what the values of each channel stand for.

    Returns:
        (3, height, width) float32.
    """
    import cv2

    if image.shape[:2] == (height, width):
        return np.stack([levels[channel][image[..., channel]] for channel in range(3)])
    above, below, down = _between(image.shape[0], height)
    left, right, across = _between(image.shape[1], width)
    columns, upper, lower = np.concatenate([left, right]), (1 - down)[:, None], down[:, None]
    shares = [upper * across, upper * (1 - across), lower * (1 - across), lower * across]
    parts = []
    for rows in (above, below):  # four bytes of a pixel are moved at once
        pixels = cv2.cvtColor(np.ascontiguousarray(image[rows]), cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]
        parts.append(cv2.split(np.take(pixels, columns, axis=1).view(np.uint8).reshape(height, -1, 4)))
    planes = np.empty((3, height, width), np.float32)
    for channel, plane in enumerate(planes):
        first, second = (cv2.LUT(part[channel], levels[channel]) for part in parts)
        np.multiply(first[:, width:], shares[0], out=plane)
        for corner, share in zip((first[:, :width], second[:, :width], second[:, width:]), shares[1:], strict=True):
            cv2.accumulateProduct(corner, share, plane)
    return planes


@lru_cache(maxsize=64)
def _between(given: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return for each of the wanted pixels of a line the two it lies between, and how far beyond the first one."""
    scale = np.float64(np.float32(given) / np.float32(wanted))  # in float32, as torch has it; the rest rounded once
    places = np.maximum((scale * (np.arange(wanted) + 0.5) - 0.5).astype(np.float32), np.float32(0))
    first = np.minimum(places.astype(np.int64), given - 1)
    return first, np.minimum(first + 1, given - 1), np.clip(places - first, 0, 1).astype(np.float32)


def _halved(image: Image, width: int, height: int) -> Image:
    """Resize by halving as often as it goes, then bilinearly.

    Bilinear alone skips pixels when an image shrinks to less than half, and small objects with them;
    averaging straight to the final size takes eight times as long as this.
    """
    import cv2

    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        image = np.asarray(cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA))
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
