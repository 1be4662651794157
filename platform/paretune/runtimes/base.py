"""What a runtime must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from paretune.detectors.base import Detector
from paretune.model import Format
from paretune.spec import Spec
from paretune.store import Artefact
from paretune.structures import Floats, InputSize
from paretune.target import Target


class Core(Protocol):
    """A loaded network: input (1, 3, H, W) float32 → raw maps, numpy in and out."""

    @property
    def facts(self) -> dict[str, str | int]:
        """What really runs, read back from the library: version, device or provider, threads, precision."""

    @property
    def parts(self) -> Mapping[str, Callable[[Floats], tuple[Floats, ...]]]:
        """The detector's networks as they are loaded, by name, each input → outputs."""

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Run the network once."""


@dataclass(frozen=True)
class Loaded:
    """A detector's loaded networks as a Core."""

    detector: Detector
    parts: Mapping[str, Callable[[Floats], tuple[Floats, ...]]]
    size: InputSize
    facts: dict[str, str | int]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Run them, with what the detector does between."""
        return self.detector.run(self.parts, batch, self.size)


class Runtime(Spec, ABC):
    """A library that runs models. Importing its file must not import the library."""

    accepts: ClassVar[Format]
    devices: ClassVar[tuple[str, ...]]
    """Target devices it can run on."""
    libraries: ClassVar[tuple[str, ...]]
    """Modules that must be importable."""

    def problem(self, target: Target) -> str | None:
        """Tell why it cannot run on a target as its fields ask; None if nothing is known against it.

        Asked on the machine of the target before anything is built.
        """
        if target.device not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)} here, not on {target.device}"
        return None

    @abstractmethod
    def load(self, artefact: Artefact, target: Target) -> Core:
        """Load the artefact's network, with the target's threads set and read back.

        Raises:
            RuntimeError: what really runs is not what was asked for.
        """
