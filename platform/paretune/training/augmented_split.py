"""The pictures of a training split: read once, kept at about the input's size, and changed at random.

What one image looks like in one epoch is drawn from (seed, epoch, image) alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, InputSize, Split
from paretune.data.preprocess import Preprocess
from paretune.training.augmentation import (
    AugmentedImage,
    cropped,
    joined,
    mirrored,
    mosaic,
    recoloured,
    rescaled,
    zoomed_out,
)
from paretune.training.settings import Augment


@dataclass(frozen=True)
class EpochView:
    """How the pictures of one epoch are shown."""

    number: int
    """Of the epoch, from 0."""
    mirror: NDArray[np.bool_]
    """(N,) which of the split's images are mirrored."""
    augment: Augment


class AugmentedSplit:
    """A split's pictures as the network sees them.

    Pictures are kept in memory, resized but not filled up. Where something will be cut out of them they
    are kept larger than the input (``Augment.enlarged``, at most twice), and shrunk at the end.

    Args:
        split: where they come from.
        preprocess: how an image becomes the network's input.
        size: of that input.
        seed: of all changes.
        augment: which changes there may be, in any epoch.
        most_mib: most memory for kept pictures; the others are read again every time.
    """

    def __init__(
        self, split: Split, preprocess: Preprocess, size: InputSize, *, seed: int, augment: Augment, most_mib: int
    ) -> None:
        self.split, self.preprocess, self.size, self.seed = split, preprocess, size, seed
        self.enlarged = augment.enlarged
        self.kept_size = InputSize(round(size.width * self.enlarged), round(size.height * self.enlarged))
        self._kept: dict[int, AugmentedImage] = {}
        self._most = most_mib * 2**20 // (self.kept_size.width * self.kept_size.height * 3)

    def shown(self, index: int, look: EpochView) -> AugmentedImage:
        """Return one image as it looks in one epoch: filled up to the input's size."""
        random = np.random.default_rng([self.seed, look.number, index])
        augment = look.augment
        if not augment.any:
            return self._fitted(self._mirrored(index, look))
        found = self._moved(index, look, random)
        if random.random() < augment.mixup:
            other = self._moved(int(random.integers(len(self.split))), look, random, alone=True)
            found = _mixed(found, other)
        if augment.colour:
            found = AugmentedImage(recoloured(found.image, augment.colour, random), found.annotations)
        return found

    def _moved(
        self, index: int, look: EpochView, random: np.random.Generator, *, alone: bool = False
    ) -> AugmentedImage:
        """Return one image, or the mosaic of it and three others, where it will be in the input."""
        augment, size = look.augment, self.size
        put_together = random.random() < augment.mosaic and not alone
        zoom = random.uniform(1 - augment.scale, 1 + augment.scale) / self.enlarged
        shift = random.uniform(-augment.translate, augment.translate, 2) * [size.width, size.height]
        if put_together:
            others = random.integers(len(self.split), size=3)
            four = [self._part(int(i), look, random) for i in (index, *others)]
            area = mosaic(four, self.kept_size, self.preprocess.filling, random)
            at = size.width / 2 + shift[0], size.height / 2 + shift[1]
            centre = float(self.kept_size.width), float(self.kept_size.height)
            return rescaled(area, zoom, centre, at, size, self.preprocess.filling)
        part = self._part(index, look, random)
        if not (augment.scale or augment.translate):
            return self._fitted(part)
        height, width = part.image.shape[:2]
        at = width / 2 / self.enlarged + shift[0], height / 2 / self.enlarged + shift[1]
        return rescaled(part, zoom, (width / 2, height / 2), at, size, self.preprocess.filling)

    def _part(self, index: int, look: EpochView, random: np.random.Generator) -> AugmentedImage:
        """Return one image mirrored, cut and zoomed out of, at the size pictures are kept in."""
        picture = self._mirrored(index, look)
        before = picture
        if random.random() < look.augment.zoom_out:
            picture = zoomed_out(picture, self.preprocess.filling, random)
        if random.random() < look.augment.iou_crop:
            picture = cropped(picture, random)
        return picture if picture is before else self._resized(picture)

    def _mirrored(self, index: int, look: EpochView) -> AugmentedImage:
        picture = self._picture(index)
        return mirrored(picture) if look.mirror[index] else picture

    def _picture(self, index: int) -> AugmentedImage:
        """Read one image, or take it from memory."""
        found = self._kept.get(index)
        if found is None:
            annotations = usable(self.split.annotations(index))
            found = self._resized(AugmentedImage(self.split.image(index), annotations))
            if len(self._kept) < self._most:
                self._kept[index] = found
        return found

    def _resized(self, picture: AugmentedImage) -> AugmentedImage:
        """Bring a picture to the size it is kept in, without filling it up."""
        fitted, placement = self.preprocess.larger(self.enlarged).fit(picture.image, self.kept_size)
        width, height = placement.inner
        truth = picture.annotations
        boxes = placement.to_input(truth.boxes)
        image = fitted if fitted.shape[:2] == (height, width) else fitted[:height, :width].copy()
        return AugmentedImage(image, Annotations(boxes, truth.labels, truth.ignore))

    def _fitted(self, picture: AugmentedImage) -> AugmentedImage:
        """Resize to the input, if the picture is not of that size yet, and fill it up."""
        image, placement = self.preprocess.fit(picture.image, self.size)
        truth = picture.annotations
        return AugmentedImage(image, Annotations(placement.to_input(truth.boxes), truth.labels, truth.ignore))


def _mixed(picture: AugmentedImage, other: AugmentedImage) -> AugmentedImage:
    """Lay two pictures over each other, half and half, and keep the boxes of both (mixup, as in YOLOX)."""
    import cv2

    image = np.asarray(cv2.addWeighted(picture.image, 0.5, other.image, 0.5, 0), np.uint8)
    return AugmentedImage(image, joined([picture.annotations, other.annotations]))


def usable(annotations: Annotations) -> Annotations:
    """Return the annotations without boxes that have no area."""
    boxes = annotations.boxes.reshape(-1, 4)
    good = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Annotations(boxes[good], annotations.labels[good], annotations.ignore[good])
