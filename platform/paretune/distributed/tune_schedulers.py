"""Schedulers: rows that decide which running trials Ray Tune stops early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from paretune.core.registry import Registry
from paretune.core.spec import Spec

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
