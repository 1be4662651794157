"""The images of a training split: read once, stored at about the input's size, and changed at random.

The random changes of an image in an epoch depend only on (seed, epoch, image).
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
    """Changes of the images in one epoch."""

    number: int
    """Number of the epoch, from 0."""
    mirror: NDArray[np.bool_]
    """(N,) whether each image of the split is mirrored."""
    augment: Augment


class AugmentedSplit:
    """A split's images as the network sees them.

    Images are held in memory, resized without padding. If parts will be cut out of them, they are stored larger than
    the input (``Augment.enlarged``, at most twice) and shrunk at the end.

    Args:
        split: source of the images.
        preprocess: conversion of an image to the network's input.
        size: of that input.
        seed: of all changes.
        augment: possible changes in any epoch.
        most_mib: memory for images; the others are read again in every epoch.
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
        """Return one image with the changes of one epoch, padded to the input's size."""
        random = np.random.default_rng([self.seed, look.number, index])
        augment = look.augment
        if not augment.any:
            return self._fitted(self._mirrored(index, look))
        augmented = self._moved(index, look, random)
        if random.random() < augment.mixup:
            other = self._moved(int(random.integers(len(self.split))), look, random, single=True)
            augmented = _mixed(augmented, other)
        if augment.colour:
            augmented = AugmentedImage(recoloured(augmented.image, augment.colour, random), augmented.annotations)
        return augmented

    def _moved(
        self, index: int, look: EpochView, random: np.random.Generator, *, single: bool = False
    ) -> AugmentedImage:
        """Return one image, or its mosaic with three others, at its place in the input."""
        augment, size = look.augment, self.size
        put_together = random.random() < augment.mosaic and not single
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
        """Return one image, perhaps mirrored, cropped or placed on a grey area, at the stored size."""
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
        """Return one image, read from the split or from memory."""
        picture = self._kept.get(index)
        if picture is None:
            annotations = usable(self.split.annotations(index))
            picture = self._resized(AugmentedImage(self.split.image(index), annotations))
            if len(self._kept) < self._most:
                self._kept[index] = picture
        return picture

    def _resized(self, picture: AugmentedImage) -> AugmentedImage:
        """Return an image at the size that it is stored in, without padding."""
        fitted, placement = self.preprocess.larger(self.enlarged).fit(picture.image, self.kept_size)
        width, height = placement.inner
        truth = picture.annotations
        boxes = placement.to_input(truth.boxes)
        image = fitted if fitted.shape[:2] == (height, width) else fitted[:height, :width].copy()
        return AugmentedImage(image, Annotations(boxes, truth.labels, truth.ignore))

    def _fitted(self, picture: AugmentedImage) -> AugmentedImage:
        """Return an image resized to the input if necessary, and padded."""
        image, placement = self.preprocess.fit(picture.image, self.size)
        truth = picture.annotations
        return AugmentedImage(image, Annotations(placement.to_input(truth.boxes), truth.labels, truth.ignore))


def _mixed(picture: AugmentedImage, other: AugmentedImage) -> AugmentedImage:
    """Return the mean of two images with the boxes of both (mixup, as in YOLOX)."""
    import cv2

    image = np.asarray(cv2.addWeighted(picture.image, 0.5, other.image, 0.5, 0), np.uint8)
    return AugmentedImage(image, joined([picture.annotations, other.annotations]))


def usable(annotations: Annotations) -> Annotations:
    """Return the annotations without boxes that have no area."""
    boxes = annotations.boxes.reshape(-1, 4)
    good = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Annotations(boxes[good], annotations.labels[good], annotations.ignore[good])
