"""Simulated detection: a world of images whose objects are hard or easy, and two versions of a detector in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.core.types import Annotations, Detections

SIDE = 500.0
CLUTTER = 3.0
"""Detections of nothing in each image."""


@dataclass(frozen=True)
class World:
    """What both versions look at: a row for each object, image by image."""

    images: int
    shares: NDArray[np.float64]
    """(classes,) of the objects: the second is half as common as the first, and so on."""
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    boxes: NDArray[np.float64]
    hard: NDArray[np.float64]
    """(images,) what makes all objects of an image harder to find."""
    luck: NDArray[np.float64]
    """(objects,) and what makes one of them harder, for both versions;"""
    moved: NDArray[np.float64]
    """(objects, 4) and where both see its edges."""

    @property
    def annotations(self) -> list[Annotations]:
        """Return the truth of each image."""
        boxes, labels = _by_image(self.image, self.images, (self.boxes.astype(np.float32), self.label))
        return [Annotations(box, label, np.zeros(len(label), bool)) for box, label in zip(boxes, labels, strict=True)]


def world(random: np.random.Generator, images: int, classes: int, objects: float) -> World:
    """Make images with so many objects each, on average."""
    shares = 1 / np.arange(1, classes + 1)
    shares /= shares.sum()
    image = np.repeat(np.arange(images), random.poisson(objects, images))
    count = len(image)
    corner, sides = random.uniform(0, SIDE, (count, 2)), np.exp(random.uniform(3, 5, (count, 2)))
    return World(
        images,
        shares,
        image,
        random.choice(classes, count, p=shares),
        np.concatenate([corner, corner + sides], axis=1),
        random.normal(0, 1, images),
        random.normal(0, 1, count),
        random.normal(0, 1, (count, 4)),
    )


def version(there: World, random: np.random.Generator, *, worse: float = 0.0, own: float = 0.3) -> list[Detections]:
    """Return what a version of a detector finds in each image: objects, the better seen the surer, and clutter.

    Args:
        there: the world.
        random: of what this version alone does.
        worse: how much less it sees; objects differ by about 1.
        own: share of its errors that the other version does not make.
    """

    def mixed(common: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(1 - own**2) * common + own * random.normal(0, 1, common.shape)

    seen = 1.2 - 0.7 * there.hard[there.image] + mixed(there.luck) - worse
    sides = there.boxes[:, 2:] - there.boxes[:, :2]
    boxes = there.boxes + mixed(there.moved) * (0.06 * np.exp(-0.35 * seen))[:, None] * np.tile(sides, 2)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    classes = len(there.shares)
    taken = np.where(random.random(len(seen)) < 0.05, random.choice(classes, len(seen), p=there.shares), there.label)
    common = np.random.default_rng(7)  # clutter is the same to both
    image = np.repeat(np.arange(there.images), common.poisson(CLUTTER, there.images))
    count = len(image)
    corner, more = common.uniform(0, SIDE, (count, 2)), np.exp(common.uniform(3, 5, (count, 2)))
    nothing = mixed(common.normal(0, 1, count)) - 1.6 + 0.3 * there.hard[image]
    kept = seen > -0.2
    owner = np.concatenate([there.image[kept], image])
    logits = np.concatenate([(seen - 0.5 + random.normal(0, own / 2, len(seen)))[kept], nothing])
    order = np.lexsort((-logits, owner))
    columns = (
        np.concatenate([boxes[kept], np.concatenate([corner, corner + more], axis=1)])[order].astype(np.float32),
        (1 / (1 + np.exp(-logits)))[order],
        np.concatenate([taken[kept], common.choice(classes, count, p=there.shares)])[order],
    )
    return [Detections(*parts) for parts in zip(*_by_image(owner[order], there.images, columns), strict=True)]


def _by_image(owner: NDArray[np.int64], images: int, columns: Sequence[NDArray[np.generic]]) -> list[list[NDArray]]:
    ends = np.searchsorted(owner, np.arange(1, images))
    return [np.split(column, ends) for column in columns]
