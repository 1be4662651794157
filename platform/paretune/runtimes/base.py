"""What a runtime must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from paretune.core.errors import needed, not_installed
from paretune.core.model import Format
from paretune.core.spec import Spec
from paretune.core.target import Device, Target
from paretune.core.types import Floats, InputSize
from paretune.detectors.base import Detector
from paretune.storage.artefact import Artefact

if TYPE_CHECKING:
    from torch import nn


class NetworkRunner(Protocol):
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
class LoadedNetworks:
    """A detector's loaded networks as a Core."""

    detector: Detector
    parts: Mapping[str, Callable[[Floats], tuple[Floats, ...]]]
    size: InputSize
    facts: dict[str, str | int]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Run them, with what the detector does between."""
        return self.detector.run(self.parts, batch, self.size)


BETWEEN = "between"
"""The part of what is computed between a detector's networks."""
ON_THE_HOST = "host"
"""The kind of what is computed there in numpy, while the runtime waits."""
_TRANSFERS = ("Memcpy HtoD", "Memcpy DtoH", "MemcpyFromHost", "MemcpyToHost")
"""How CUDA and ONNX Runtime begin the names of copies between the host's memory and the device's."""


@dataclass(frozen=True)
class Operator:
    """One node of what a runtime really runs: often several of the file's, fused."""

    part: str
    """The detector's network it belongs to, or ``BETWEEN``."""
    name: str
    """The runtime's own."""
    kind: str
    """What it computes, in the runtime's own word."""
    module: str | None
    """Qualified name of the network's module it came from; where several were fused, of the one with the weights.
    None where it is not known."""
    ms: float
    """Mean of one inference, made longer by the counting: only its share of the whole means something."""


def is_transfer(kind: str) -> bool:
    """Tell whether an operator or kernel of this kind carries data between the host and the device."""
    return kind.startswith(_TRANSFERS)


class TimedNetworkRunner(NetworkRunner, Protocol):
    """A core whose operators the runtime's own profiler times, which makes all of them slower."""

    def reset(self) -> None:
        """Forget what ran so far."""

    def operators(self) -> list[Operator]:
        """Tell what ran since the core was made, or reset; this ends the counting, and the core runs no more."""

    def trace(self, file: Path) -> bool:
        """Write when what ran (Chrome's format, for https://ui.perfetto.dev), once ``operators`` was asked.

        Args:
            file: ends in ``.json`` or ``.json.gz``.

        Returns:
            Whether this runtime can tell.
        """


class Runtime(Spec, ABC):
    """A library that runs models. Importing its file must not import the library."""

    accepts: ClassVar[Format]
    devices: ClassVar[tuple[str, ...]]
    """Target devices it can run on."""
    libraries: ClassVar[tuple[str, ...]]
    """Modules that must be importable."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages of pip whose versions decide what it computes, where they are not named like ``libraries``."""

    @property
    def own_device(self) -> Device:
        """Return the device it needs as its fields ask; the CPU where it runs on either."""
        return "cpu" if "cpu" in self.devices else self.devices[0]

    def unsupported_reason(self, target: Target) -> str | None:
        """Tell why it cannot run on a target as its fields ask; None if nothing is known against it.

        Asked on the machine of the target before anything is built; imports no library where it can do without.
        """
        if target.device not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)} here, not on {target.device}"
        if missing := self.missing:
            return f"{self.name} needs {needed(missing)}"
        return None

    @property
    def signed_int8(self) -> bool:
        """Whether it reads INT8 only signed and symmetric, every zero point 0; x86 wants unsigned activations."""
        return False

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:  # noqa: ARG002 - of runtimes that refuse some
        """Tell why what ``quantize`` makes by a scheme would not compute so on a target; None if it would.

        Asked of every recipe before anything runs, on any machine: only what holds for all of them is told.
        """
        return None

    @property
    def missing(self) -> list[str]:
        """Return its libraries that are not installed here."""
        return not_installed(self.libraries)

    @abstractmethod
    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Load the artefact's network, with the target's threads set and read back.

        Raises:
            RuntimeError: what really runs is not what was asked for.
        """

    @property
    def runs_single_layers(self) -> bool:
        """Whether ``layer_runner`` is written: it loads a single layer in less than a second."""
        return False

    def layer_runner(
        self, layer: nn.Module | Path, images: Floats, target: Target
    ) -> AbstractContextManager[Callable[[], object]]:
        """Return a context in which a call runs a layer once, for measuring how latency depends on channel counts.

        Args:
            layer: a torch module where the runtime loads torch models, else an ONNX file with the input ``images``.
            images: input, (B, C, H, W).
            target: device and threads.

        Raises:
            NotImplementedError: the runtime loads whole networks only.
            RuntimeError: what runs is not what was asked for.
        """
        raise NotImplementedError(f"{self.name} does not run single layers")

    def counted(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Load the artefact's network as ``load`` does, its operators timed one by one.

        Raises:
            NotImplementedError: this runtime does not tell what its operators cost.
            RuntimeError: as for ``load``.
        """
        raise NotImplementedError(f"{self.name} does not tell what its operators cost")
