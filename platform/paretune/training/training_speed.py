"""Speed of training on this machine, measured by a few real steps whose result is discarded."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from paretune.core.types import Annotations, Image, InputSize, Split
from paretune.detectors.base import Detector
from paretune.system.device_lock import shared_device
from paretune.training.loader import training_batches
from paretune.training.loop import threads_of
from paretune.training.settings import Training
from paretune.training.trainer import Trainer, TrainingDevice, at_size

LEAST_SECONDS = 2.5
"""Shortest time of all measured steps, in seconds."""
LEAST_STEPS = 6
"""Fewest measured steps; as many run before them as a warm-up."""


@dataclass(frozen=True)
class _FirstImages(Split):
    """The first images of a split."""

    split: Split
    ids: Sequence[str]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        return self.split.image(index)

    def size(self, index: int) -> tuple[int, int]:
        return self.split.size(index)

    def annotations(self, index: int) -> Annotations:
        return self.split.annotations(index)

    def file(self, index: int) -> Path | None:
        return self.split.file(index)


def seconds_per_image(detector: Detector, split: Split, size: InputSize, settings: Training, device: str) -> float:
    """Return the seconds of training for one image, with the images in memory.

    Args:
        detector: trained from new weights.
        split: images and annotations.
        size: of the network's input.
        settings: batch size, threads, precision and changes of images.
        device: torch device.
    """
    times: list[float] = []
    with shared_device(device), closing(training_steps(detector, split, size, settings, device)) as steps:
        begun = math.inf
        for number, seconds in steps:
            if number == 0:
                continue  # the first pass decodes the images and warms up
            begun = min(begun, time.monotonic() - seconds)
            times.append(seconds)
            if len(times) >= LEAST_STEPS and time.monotonic() - begun >= LEAST_SECONDS:
                break
    return median(times) / settings.batch_size


def training_steps(
    detector: Detector, split: Split, size: InputSize, settings: Training, device: str
) -> Generator[tuple[int, float]]:
    """Train a new network on the first images of a split without end.

    Args:
        detector: trained from new weights.
        split: images and annotations.
        size: of the network's input.
        settings: batch size, threads, precision and changes of images.
        device: torch device.

    Yields:
        After each step the number of the pass over the images, from 0, and the seconds of the step.
    """
    few = _FirstImages(split, split.ids[: LEAST_STEPS * settings.batch_size], split.classes)
    with threads_of(settings, device), torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(settings.seed)
        run = Trainer(detector.build(len(split.classes)), detector, settings, size, TrainingDevice(device))
        batches = training_batches(few, detector, size, settings)
        for number in itertools.count():
            began = time.monotonic()
            for images, truth in batches.epoch(number):
                run.step(iter([at_size(images.to(device), truth, size)]), 1, "measuring the speed")
                now = time.monotonic()
                yield number, now - began
                began = time.monotonic()
