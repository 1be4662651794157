"""Batches for training, prepared by threads, and equal in every run.

Order and mirroring are drawn from (seed, epoch) for the whole split before workers divide it, other changes from
(seed, epoch, image). The changes of an image therefore depend neither on the number of workers or threads nor on where
a training was resumed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paretune.core.types import Annotations, Image, InputSize, Split
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import Detector
from paretune.training.augmentation import AugmentedImage
from paretune.training.augmented_split import AugmentedSplit, EpochView
from paretune.training.settings import NOTHING, Augment, Training

CACHE_MIB = 4096
"""Memory for images; those of a larger split are read again in every epoch."""
READERS = 2
"""Threads that decode and change images; OpenCV and numpy release Python's lock."""
AHEAD = 2
"""Number of batches that are prepared during a training step."""


class Batches:
    """Batches of a split at one input size.

    Args:
        split: source of the images.
        preprocess: conversion of an image to the network's input.
        size: of that input.
        batch: number of images in a batch of one worker.
        flip: share of the images that are mirrored.
        seed: of order and changes.
        augment: further changes of the images.
        epochs: of the whole training; the last ones may have fewer changes.
        readers: number of threads.
        rank: number of this worker.
        world: number of workers.

    Raises:
        ValueError: the split is empty.
    """

    def __init__(  # noqa: PLR0913 - passed by name
        self,
        split: Split,
        preprocess: Preprocess,
        size: InputSize,
        *,
        batch: int,
        flip: float = 0.0,
        seed: int = 0,
        augment: Augment = NOTHING,
        epochs: int | None = None,
        readers: int = READERS,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not len(split):
            raise ValueError("no images to train on")
        self.split, self.preprocess, self.batch, self.flip, self.seed = split, preprocess, batch, flip, seed
        self.augment, self.epochs, self.readers = augment, epochs, readers
        self.rank, self.world = rank, world
        self.pictures = AugmentedSplit(split, preprocess, size, seed=seed, augment=augment, most_mib=CACHE_MIB)
        self.waited = 0.0
        """Seconds that the training waited for batches in the last epoch."""

    def __len__(self) -> int:
        """Return the number of batches in one epoch; the images left over differ in every epoch."""
        return max(1, len(self.split) // (self.batch * self.world))

    def epoch(self, number: int) -> Iterator[tuple[Tensor, list[Annotations]]]:
        """Yield the batches of one epoch: images (B, 3, H, W) float32 in channels_last, and their annotations."""
        random = np.random.default_rng([self.seed, number])
        order = random.permutation(len(self.split))
        mirror = random.random(len(self.split)) < self.flip
        look = EpochView(number, mirror, self.augment.in_epoch(number, self.epochs))
        # a split smaller than one batch is repeated until the batch is full
        grid = np.resize(order, (len(self), self.world, self.batch))[:, self.rank]
        self.waited = 0.0
        with ThreadPoolExecutor(self.readers, thread_name_prefix="reader") as pool:
            ahead: deque[list[Future[AugmentedImage]]] = deque()
            try:
                for step in range(len(grid)):
                    began = time.monotonic()
                    for row in grid[step + len(ahead) : step + 1 + AHEAD]:
                        ahead.append(self._submit(pool, row, look))
                    chosen = [future.result() for future in ahead.popleft()]
                    images = to_input([picture.image for picture in chosen], self.preprocess)
                    self.waited += time.monotonic() - began
                    yield images, [picture.annotations for picture in chosen]
            finally:  # also if the caller stops early
                pool.shutdown(wait=False, cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, row: NDArray[np.int64], look: EpochView
    ) -> list[Future[AugmentedImage]]:
        return [pool.submit(self.pictures.shown, int(index), look) for index in row]


def training_batches(
    split: Split,
    detector: Detector,
    size: InputSize,
    settings: Training,
    *,
    epochs: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Batches:
    """Return the batches of a worker of a training; the arguments are those of ``Batches``."""
    return Batches(
        split,
        detector.preprocess,
        size,
        batch=settings.batch_size,
        flip=settings.flip,
        seed=settings.seed,
        augment=settings.augment,
        epochs=epochs,
        readers=settings.loader_threads,
        rank=rank,
        world=world,
    )


def to_input(images: list[Image], preprocess: Preprocess) -> Tensor:
    """Return padded images as one batch (B, 3, H, W) float32 in channels_last, like ``preprocess.tensor``."""
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
