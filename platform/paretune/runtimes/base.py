"""What a runtime must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from paretune.model import Format
from paretune.spec import Spec
from paretune.store import Artefact
from paretune.structures import Floats
from paretune.target import Target


class Core(Protocol):
    """A loaded network: input (1, 3, H, W) float32 → raw maps, numpy in and out."""

    @property
    def facts(self) -> dict[str, str | int]:
        """What really runs, read back from the library: version, device or provider, threads, precision."""

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Run the network once."""


class Runtime(Spec, ABC):
    """A library that runs models. Importing its file must not import the library."""

    accepts: ClassVar[Format]
    devices: ClassVar[tuple[str, ...]]
    """Target devices it can run on."""
    libraries: ClassVar[tuple[str, ...]]
    """Modules that must be importable."""

    @abstractmethod
    def load(self, artefact: Artefact, target: Target) -> Core:
        """Load the artefact's network, with the target's threads set and read back.

        Raises:
            RuntimeError: what really runs is not what was asked for.
        """
