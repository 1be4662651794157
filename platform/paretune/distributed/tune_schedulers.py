"""Schedulers: rows that decide which running trials Ray Tune stops early."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from paretune.core.registry import Registry
from paretune.core.spec import Spec

if TYPE_CHECKING:
    from ray.tune.schedulers import TrialScheduler

SCHEDULERS: Registry[Scheduler] = Registry("scheduler", {"none": "paretune.distributed.tune_schedulers:NoScheduler"})


class Scheduler(Spec, ABC):
    """Decides which running trials are stopped early."""

    @abstractmethod
    def build(self) -> TrialScheduler | None:
        """Return a scheduler of Ray Tune; None takes Tune's own, which lets every trial run to its end.

        It sees what a trial reports to Tune: ``number`` and ``state``, once, when its record is written.
        """


class NoScheduler(Scheduler):
    """Lets every trial run to its end."""

    name: ClassVar[str] = "none"

    def build(self) -> TrialScheduler | None:
        """Return None."""
        return None
