"""Batches for training: fitted images kept in memory, mirrored at random, the same in every run.

Everything random is drawn from (seed, epoch) for the whole split before it is shared out, so neither
the number of workers nor where a training was resumed changes what an image looks like.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paretune.data.preprocess import Placement, Preprocess
from paretune.structures import Annotations, Image, InputSize, Split

CACHE_MIB = 4096
"""Most memory for fitted images; the rest of a larger split is read again every epoch."""
READERS = 4
"""Threads that decode and resize; OpenCV works without Python's lock."""


@dataclass(frozen=True)
class Sample:
    """One fitted image, still uint8, with its boxes in pixels of the input."""

    image: Image
    """(height, width, 3) RGB."""
    annotations: Annotations
    content: tuple[int, int]
    """Width and height that the picture fills; the rest is grey."""

    def mirrored(self) -> Sample:
        """Swap left and right of the picture, which stays in the top left corner."""
        width, height = self.content
        image = self.image.copy()
        image[:height, :width] = self.image[:height, :width][:, ::-1]
        boxes = self.annotations.boxes.copy()
        boxes[:, [0, 2]] = width - self.annotations.boxes[:, [2, 0]]
        return Sample(image, Annotations(boxes, self.annotations.labels, self.annotations.ignore), self.content)


class Batches:
    """A split as batches of one input size.

    Args:
        split: where the images come from.
        preprocess: how an image becomes the network's input.
        size: of that input.
        batch: images in a batch of one worker.
        flip: share of the images that are mirrored.
        seed: of order and mirroring.
        rank: which worker this is,
        world: of how many.

    Raises:
        ValueError: the split is empty.
    """

    def __init__(
        self,
        split: Split,
        preprocess: Preprocess,
        size: InputSize,
        *,
        batch: int,
        flip: float = 0.0,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not len(split):
            raise ValueError("no images to train on")
        self.split, self.preprocess, self.size = split, preprocess, size
        self.batch, self.flip, self.seed = batch, flip, seed
        self.rank, self.world = rank, world
        self._kept: dict[int, Sample] = {}
        self._most = CACHE_MIB * 2**20 // (size.width * size.height * 3)

    def __len__(self) -> int:
        """Return the batches of one epoch; what is left over is not used, but other images in every epoch."""
        return max(1, len(self.split) // (self.batch * self.world))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, list[Annotations]]]:
        """Yield the batches of one epoch: images (B, 3, H, W) float32 in channels_last, and their annotations."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(len(self.split))
        mirrored = random.random(len(self.split)) < self.flip
        steps = len(self)
        # a split smaller than one batch is gone through again until the batch is full
        grid = np.resize(order, (steps, self.world, self.batch))[:, self.rank]
        with ThreadPoolExecutor(READERS) as pool:
            ahead = pool.map(self._sample, grid[0])
            for step in range(steps):
                samples = list(ahead)
                if step + 1 < steps:
                    ahead = pool.map(self._sample, grid[step + 1])
                chosen = [s.mirrored() if mirrored[i] else s for i, s in zip(grid[step], samples, strict=True)]
                yield to_input([s.image for s in chosen], self.preprocess), [s.annotations for s in chosen]

    def _sample(self, index: int) -> Sample:
        """Read one image, or take it from memory."""
        found = self._kept.get(index)
        if found is None:
            fitted, placement = self.preprocess.fit(self.split.image(int(index)), self.size)
            found = Sample(fitted, usable(self.split.annotations(int(index)), placement), _content(placement))
            if len(self._kept) < self._most:
                self._kept[index] = found
        return found


def _content(placement: Placement) -> tuple[int, int]:
    return round(placement.width * placement.scale_x), round(placement.height * placement.scale_y)


def usable(annotations: Annotations, placement: Placement) -> Annotations:
    """Return what can be trained on: no entries to ignore, no boxes without an area, in pixels of the input."""
    boxes = annotations.boxes.reshape(-1, 4)
    good = ~annotations.ignore & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Annotations(placement.to_input(boxes[good]), annotations.labels[good], annotations.ignore[good])


def to_input(images: list[Image], preprocess: Preprocess) -> Tensor:
    """Turn fitted images into one batch (B, 3, H, W) float32: what ``preprocess.tensor`` does, in channels_last."""
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    if preprocess.order == "bgr":
        batch = batch.flip(1)
    planes = batch.float()
    if preprocess.scale != 1:
        planes *= preprocess.scale
    if any(preprocess.mean) or preprocess.std != (1.0, 1.0, 1.0):
        planes -= torch.tensor(preprocess.mean)[:, None, None]
        planes /= torch.tensor(preprocess.std)[:, None, None]
    return planes.contiguous(memory_format=torch.channels_last)
