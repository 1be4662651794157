"""What a step must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from paretune.core.model import Accepted, Format, Model
from paretune.core.spec import Spec
from paretune.core.target import Target
from paretune.core.types import Data, Thresholds
from paretune.data.base import Dataset
from paretune.detectors.base import Detector
from paretune.runtimes.base import Runtime
from paretune.training.settings import Training


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Context:
    """All that a step may use besides the model."""

    detector: Detector
    data: Data
    training: Training
    """How the baseline was trained: what a fine-tuning does unless told otherwise."""
    workdir: Path
    """The trial's own folder, for files the step makes."""
    seed: int = 0
    device: str = "cpu"
    """Where a step trains: a torch device."""
    progress: Callable[[str], None] = _silent
    """Called with a short line while something long goes on."""
    dataset: Dataset | None = None
    """What ``data`` was opened from: workers in other processes open it by themselves."""
    cache: Path | None = None
    """Where the dataset keeps what it generates."""
    baseline: Path | None = None
    """Folder of the trained, uncompressed network: the teacher unless another is named."""
    target: Target = field(default_factory=Target)
    """What the result is for."""
    runtime: Runtime | None = None
    """What will run it; a step that measures or evaluates asks it."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What its postprocessing will keep."""


class Step(Spec, ABC):
    """One model → model change. Importing its file must not import torch."""

    accepts: ClassVar[Accepted] = "torch"
    produces: ClassVar[Format | None] = "torch"
    """None: the format it was given."""
    final: ClassVar[bool] = False
    """No step can follow it."""
    locks: ClassVar[bool] = False
    """It takes the device lock itself, piece by piece, since it measures or trains for long; around any other step
    the CPU is shared."""

    def takes(self, loaded: Format) -> Format:
        """Return the format it takes in a recipe whose runtime loads this one."""
        return loaded if self.accepts == "either" else self.accepts

    def unsupported_fields(self, loaded: Format) -> dict[str, str]:  # noqa: ARG002 - most have none
        """Return its fields that a runtime which loads this format cannot have as they are, each with the reason."""
        return {}

    def unsupported_reason(self, runtime: Runtime, target: Target) -> str | None:  # noqa: ARG002 - of steps that need them
        """Tell why what it makes would not run on a target as it is meant; None if nothing is against it."""
        return None

    @property
    def trains(self) -> bool:
        """Tell whether it trains for epochs: what it made is kept when a later step fails."""
        return False

    @abstractmethod
    def apply(self, model: Model, context: Context) -> Model:
        """Return the changed model; the one given stays as it was.

        A step that changed nothing says so in the model's notes.
        """
