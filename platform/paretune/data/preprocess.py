"""From an image to the network's input: one code path for training, evaluation and the artefact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from paretune.fields import TypeAdapter
from paretune.structures import Floats, Image, InputSize

SHRINKING = "halved as often as it goes, then bilinear"
"""How ``_resized`` makes an image smaller, as manifests tell it."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in the network's input: scaled, top left corner on top left corner."""

    scale_x: float
    scale_y: float
    width: int
    height: int
    """Size of the image itself, in pixels."""

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
    """letterbox keeps the proportions and fills the rest; stretch does not."""
    fill: int = 114
    """Grey level of the rest."""
    order: Literal["rgb", "bgr"] = "rgb"
    scale: float = 1 / 255
    """What pixel values are multiplied by."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Subtracted and divided by after scaling, in the order of the channels."""

    def tree(self) -> dict[str, Any]:
        """Return all that it does as plain data."""
        return {**asdict(self), "shrinking": SHRINKING}

    @classmethod
    def parse(cls, tree: Mapping[str, Any]) -> Preprocess:
        """Read what ``tree`` has told.

        Raises:
            ValueError: it tells of something that this Paretune does not do.
        """
        if odd := sorted(tree.keys() ^ {*cls.__dataclass_fields__, "shrinking"}):
            raise ValueError(f"{odd[0]} is {'told and unknown' if odd[0] in tree else 'not told'}")
        if tree["shrinking"] != SHRINKING:
            raise ValueError(f"shrinking is {tree['shrinking']!r}, here it is {SHRINKING!r}")
        return TypeAdapter(cls).validate_python({name: tree[name] for name in cls.__dataclass_fields__})

    def fit(self, image: Image, size: InputSize) -> tuple[Image, Placement]:
        """Resize an RGB image (H, W, 3) uint8 to the input size: still uint8 RGB, (height, width, 3)."""
        height, width = image.shape[:2]
        if self.resize == "stretch":
            new_width, new_height = size.width, size.height
        else:
            ratio = min(size.width / width, size.height / height)
            new_width, new_height = max(1, round(width * ratio)), max(1, round(height * ratio))
        resized = _resized(image, new_width, new_height)
        placement = Placement(new_width / width, new_height / height, width, height)
        if (new_width, new_height) == (size.width, size.height):
            return np.asarray(resized, np.uint8), placement
        canvas = np.full((size.height, size.width, 3), self.fill, np.uint8)
        canvas[:new_height, :new_width] = resized
        return canvas, placement

    def tensor(self, fitted: Image) -> Floats:
        """Turn a fitted image (H, W, 3) uint8 RGB into the network's input (3, H, W) float32."""
        channels = fitted[..., ::-1] if self.order == "bgr" else fitted
        planes = np.ascontiguousarray(channels.transpose(2, 0, 1)).astype(np.float32)
        if self.scale != 1:
            planes *= np.float32(self.scale)
        if any(self.mean) or self.std != (1.0, 1.0, 1.0):
            planes -= np.asarray(self.mean, np.float32)[:, None, None]
            planes /= np.asarray(self.std, np.float32)[:, None, None]
        return planes

    def __call__(self, image: Image, size: InputSize) -> tuple[Floats, Placement]:
        """Do both: image → ((3, H, W) float32, where it lies)."""
        fitted, placement = self.fit(image, size)
        return self.tensor(fitted), placement


def _resized(image: Image, width: int, height: int) -> Image:
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
