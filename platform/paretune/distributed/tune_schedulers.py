"""Schedulers: rows that decide which running trials Ray Tune stops early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from paretune.core.registry import Registry
from paretune.core.spec import Spec
from paretune.detectors.base import Detector
from paretune.search.latency_scale import SCALED
from paretune.training.settings import Training

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

SCHEDULERS: Registry[Scheduler] = Registry(
    "scheduler",
    {
        "none": "paretune.distributed.tune_schedulers:NoScheduler",
        "halving": "paretune.distributed.tune_schedulers:HalvingScheduler",
    },
)


class Scheduler(Spec, ABC):
    """Decides which running trials are stopped early."""

    def unsupported_reason(
        self,
        objectives: Collection[str],  # noqa: ARG002 - for overriding
        detector: Detector,  # noqa: ARG002 - for overriding
        training: Training,  # noqa: ARG002 - for overriding
    ) -> str | None:
        """Return why trials of such a job cannot be compared on the way; None if they can."""
        return None

    def rungs(self, epochs: int) -> tuple[int, ...]:  # noqa: ARG002 - most have none
        """Return the epochs at which a fine-tuning of so many is validated and may be paused."""
        return ()

    @abstractmethod
    def build(self) -> TrialScheduler | None:
        """Return a scheduler of Ray Tune; None takes Tune's own, which lets every trial run to its end.

        It sees what a trial reports to Tune: ``number`` and ``state``, once, when its record is written.
        """


class HalvingScheduler(Scheduler):
    """Multi-objective asynchronous successive halving (`search/halving.py`) over the epochs of a fine-tuning.

    A drawn trial that is not among the best third of its rung is paused, and goes on when it is by then. It pauses
    itself, so that it frees its locks and saves its state; Tune, which would end its thread, sees it as finished.
    """

    name: ClassVar[str] = "halving"

    eta: int = Field(default=3, ge=2, le=16)
    """One in so many trials goes on from each rung."""
    shares: tuple[float, ...] = Field(default=(0.25, 0.5), min_length=1, strict=False)
    """Rungs, as shares of the epochs of a fine-tuning."""
    least_epochs: int = Field(default=4, ge=2)
    """Epochs of a fine-tuning below which it has no rungs."""

    @field_validator("shares")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not 0 < value[0] <= value[-1] < 1:
            raise ValueError("shares between 0 and 1 are expected, each larger than the one before")
        return value

    def unsupported_reason(self, objectives: Collection[str], detector: Detector, training: Training) -> str | None:
        """Return why a trial's objectives are not known before its training ends; None if they are."""
        if odd := [metric for metric in objectives if metric not in ("map", *SCALED)]:
            return f"halving compares trials by map and a latency on the way; {odd[0]} is known at the end only"
        if len(detector.part_names) > 1:
            return f"halving needs the latency before the training, and parts of {detector.name} wait for its boxes"
        return "halving is for trainings by one worker without Ray Train" if training.by_ray else None

    def rungs(self, epochs: int) -> tuple[int, ...]:
        """Return the epochs at which a fine-tuning may be paused, each once."""
        if epochs < self.least_epochs:
            return ()
        return tuple(dict.fromkeys(max(1, round(share * epochs)) for share in self.shares))

    def build(self) -> TrialScheduler | None:
        """Return None."""
        return None


class NoScheduler(Scheduler):
    """Lets every trial run to its end."""

    name: ClassVar[str] = "none"

    def build(self) -> TrialScheduler | None:
        """Return None."""
        return None
