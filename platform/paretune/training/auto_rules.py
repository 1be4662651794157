"""Rules of `training: auto`: fields chosen from the data, the detector and a time budget, each with its reason.

As in nnU-Net (Isensee et al., Nature Methods 2021), a few statistics of the training split decide, and no constant
belongs to a particular dataset. Lengths are counted in images that pass the network, since they take the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from paretune.core.types import InputSize
from paretune.data.statistics import SplitStatistics
from paretune.detectors.base import Detector
from paretune.training.settings import Augment, Training

MINUTES = 10.0
"""Time budget in minutes if none is given."""
SMALL_SIDE = 16.0
"""Smallest side of a small object in pixels of the input: two cells of the finest level."""
SIDES = (160, 320)
"""Square roots of the smallest and the largest input area for new weights, in pixels."""
PRETRAINED_SIDES = (224, 640)
PICTURES = 24_000
"""Images that a network with new weights needs before a larger input is worth its time."""
PRETRAINED_PICTURES = 4_000
EPOCHS = (10, 300)
"""Fewest and most epochs; YOLOX trains 300, and more rarely helps."""
PRETRAINED_EPOCHS = (6, 100)
STEPS = 24
"""Fewest batches of an epoch: the batch size is the largest power of two that leaves as many."""
BATCHES = (4, 16)
"""Smallest and largest batch on a CPU."""
GPU_BATCH = 64
WARM_STEPS = 300
"""Most steps of the warm-up, which is at most a tenth of the training."""
VALIDATIONS = 25
"""Most evaluations on the validation split during the training."""
VALIDATED = 0.4
"""Time of an image in validation, as a share of its time in training."""
STRONG, LIGHT = 80, 30
"""Epochs from which images are changed strongly, and below which only colours change."""


@dataclass(frozen=True)
class ChosenField:
    """One chosen field."""

    field: str
    """Path in the job, such as ``training.epochs``."""
    value: Any
    because: str


@dataclass(frozen=True)
class AutoRules:
    """Facts that the choice depends on, and the rules."""

    detector: Detector
    given: Training
    """Settings of the user; fields that are set stay unchanged."""
    train: SplitStatistics
    val_images: int
    gpu: bool = False

    @property
    def pretrained(self) -> bool:
        """Return whether the training starts from trained weights of the whole network."""
        return self.detector.starts_trained

    @property
    def seconds(self) -> float:
        """Return the time budget in seconds."""
        return 60 * (MINUTES if self.given.minutes is None else self.given.minutes)

    def size(self, seconds: Callable[[InputSize], float]) -> tuple[InputSize, str]:
        """Return the input size and its reason.

        Args:
            seconds: input size → seconds of training for one image on this machine.
        """
        low, high = PRETRAINED_SIDES if self.pretrained else SIDES
        native = math.sqrt(self.train.width * self.train.height)
        most = min(high, max(native, low))
        needed = min(max(low, SMALL_SIDE / self.train.small), most)
        middle = math.sqrt(needed * most)
        probe = self._sized(middle)
        pictures = PRETRAINED_PICTURES if self.pretrained else PICTURES
        bought = self.seconds / (pictures * seconds(probe)) * probe.width * probe.height
        side = min(max(needed, math.sqrt(bought)), most)
        size = self._sized(side)
        what = f"the pictures' proportions; a small object is {self.train.small * side:.0f} pixels wide"
        limit = "as large as the time allows" if needed < side < most else "no smaller one would show small objects"
        return size, f"{what}, {limit if side < most else 'larger is not needed'}"

    def _sized(self, side: float) -> InputSize:
        """Return the size of about ``side`` squared pixels that fits the images' proportions best."""
        aspect = min(max(self.train.aspect, 0.5), 2.0)
        least = next(s for s in range(32, 2049, 32) if self.detector.size_unsupported_reason(InputSize(s, s)) is None)
        allowed = []
        for step in (16, 32, 64):
            counts = range(-(-least // step), 2 + int(2 * side / step))
            sizes = [InputSize(step * across, step * down) for across in counts for down in counts]
            allowed = [size for size in sizes if self.detector.size_unsupported_reason(size) is None]
            if allowed:
                break

        def misfit(size: InputSize) -> float:
            area = math.log(size.width * size.height / side**2)
            return abs(area) + 2 * abs(math.log(size.width / size.height / aspect))

        return min(allowed, key=misfit, default=InputSize(least, least))

    def choices(self, picture: float) -> list[ChosenField]:
        """Return all chosen fields except size and threads.

        Args:
            picture: seconds of training for one image at the chosen size on this machine.
        """
        data, chosen = self.train, dict[str, tuple[Any, str]]()
        batch = self._batch()
        chosen["batch_size"] = batch, f"{data.images} pictures: at least {STEPS} steps an epoch"
        batch = self._final("batch_size", batch)
        epochs, why = self._epochs(picture)
        chosen["epochs"] = epochs, why
        epochs = self._final("epochs", epochs)
        steps = max(1, data.images // (batch * self.given.workers)) * epochs
        usual = self.detector.usual_lr * math.sqrt(batch * self.given.workers / 8)
        lr, reason = usual, f"{self.detector.name}'s usual {self.detector.usual_lr:g} for batches of 8"
        if self.pretrained:
            lr, reason = usual / 4, f"a quarter of {reason}: the weights are trained already"
        chosen["lr"] = float(f"{lr:.2g}"), reason
        warm = min(WARM_STEPS, steps / 10) / (steps / epochs)
        chosen["warmup_epochs"] = round(warm, 2), f"{warm * steps / epochs:.0f} of {steps} steps"
        decay = 1 - 1 / min(max(steps / 50, 10), 5000)
        chosen["ema"] = round(decay, 5), "the mean of the last fiftieth of the steps"
        if self.pretrained:
            chosen["freeze_epochs"] = max(1, epochs // 10), "new predictors learn first, on features that stay"
        chosen["flip"] = (0.0 if data.sided else 0.5), self._of_flip()
        chosen["augment"] = self._augment(epochs)
        every = max(1, math.ceil(epochs / VALIDATIONS))
        chosen["validate_every"] = every, f"{-(-epochs // every)} times: the best network is kept"
        every = self._final("validate_every", every)
        patience = max(every, math.ceil(0.3 * epochs / every) * every) if every else 0
        chosen["patience"] = patience, "a plateau, or overfitting, of three tenths of the training ends it"
        return [
            ChosenField(f"training.{field}", value, because)
            for field, (value, because) in chosen.items()
            if field not in self.given.model_fields_set
        ]

    def _final(self, field: str, chosen: Any) -> Any:
        """Return the final value of a field: the user's, or else the chosen one."""
        return getattr(self.given, field) if field in self.given.model_fields_set else chosen

    def _batch(self) -> int:
        least, most = BATCHES[0], GPU_BATCH if self.gpu else BATCHES[1]
        fits = self.train.images / (STEPS * self.given.workers)
        return int(min(max(2 ** math.floor(math.log2(max(fits, 1))), least), most))

    def _epochs(self, picture: float) -> tuple[int, str]:
        least, most = PRETRAINED_EPOCHS if self.pretrained else EPOCHS
        validating = VALIDATIONS * self.val_images * VALIDATED * picture
        bought = int((self.seconds - validating) / (self.train.images * picture / self.given.workers))
        epochs = min(max(bought, least), most)
        speed = f"{1 / picture * self.given.workers:.0f} pictures a second here"
        if bought < least:
            return epochs, f"fewer teach nothing, though at {speed} they take longer than {self.seconds / 60:g} min"
        if bought > most:
            return epochs, f"more are seldom worth anything; at {speed} {self.seconds / 60:g} min would do for {bought}"
        return epochs, f"{self.seconds / 60:g} min at {speed}"

    def _of_flip(self) -> str:
        if not self.train.sided:
            return "no class is one of two sides"
        return f"a mirror makes {self.train.sided[0]!r} another class"

    def _augment(self, epochs: int) -> tuple[Augment, str]:
        if epochs < (STRONG // 2 if self.pretrained else LIGHT):
            return Augment(colour=0.5), f"{epochs} epochs: short trainings lose by strong changes"
        close = max(2, round(0.12 * epochs))
        if epochs < STRONG:
            light = Augment(mosaic=0.3, scale=0.25, translate=0.1, colour=0.5, close_epochs=close)
            return light, f"{epochs} epochs: moderate changes"
        strong = Augment(mosaic=0.8, scale=0.4, translate=0.1, colour=0.7, close_epochs=close)
        return strong, f"{epochs} epochs: each picture is seen often enough for strong changes"


def detector_fields(detector: Detector, train: SplitStatistics, size: InputSize) -> list[ChosenField]:
    """Return the fields of a detector that follow from the data and are not set by the user."""
    chosen: Mapping[str, tuple[float, str]] = detector.suited(train.smallest, train.largest, size)
    return [
        ChosenField(f"detector.{detector.name}.{field}", value, because)
        for field, (value, because) in chosen.items()
        if field not in detector.model_fields_set
    ]
