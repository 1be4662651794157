"""The interface of a runtime, and the networks that it loads."""

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
    """A loaded network, a function from an input (1, 3, H, W) float32 to raw maps, all in numpy."""

    @property
    def facts(self) -> dict[str, str | int]:
        """Facts read back from the library: version, device or provider, threads, precision."""

    @property
    def parts(self) -> Mapping[str, Callable[[Floats], tuple[Floats, ...]]]:
        """The detector's loaded networks by name, each a function of its input that returns its outputs."""

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the raw maps of one batch."""


@dataclass(frozen=True)
class LoadedNetworks:
    """A detector's loaded networks, run as one."""

    detector: Detector
    parts: Mapping[str, Callable[[Floats], tuple[Floats, ...]]]
    size: InputSize
    facts: dict[str, str | int]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        """Return the raw maps of one batch, with the detector's own computation between its networks."""
        return self.detector.run(self.parts, batch, self.size)


BETWEEN = "between"
"""Part name of operators between a detector's networks."""
ON_THE_HOST = "host"
"""Kind of operators that numpy computes on the host while the runtime waits."""
_TRANSFERS = ("Memcpy HtoD", "Memcpy DtoH", "MemcpyFromHost", "MemcpyToHost")
"""First words in the names that CUDA and ONNX Runtime give to copies between host and device."""


@dataclass(frozen=True)
class Operator:
    """One executed node of a runtime, often several fused nodes of the file."""

    part: str
    """Name of the detector's network that it belongs to, or ``BETWEEN``."""
    name: str
    """Name in the runtime."""
    kind: str
    """Type of the operator in the runtime's terms."""
    module: str | None
    """Qualified name of the network's module that it came from, of the one with weights among fused ones; None if
    unknown."""
    ms: float
    """Mean milliseconds of one inference, increased by the profiler: only the share of the whole is meaningful."""


def is_transfer(kind: str) -> bool:
    """Return whether an operator or kernel of this kind copies data between the host and the device."""
    return kind.startswith(_TRANSFERS)


class TimedNetworkRunner(NetworkRunner, Protocol):
    """A loaded network whose operators are timed by the runtime's profiler, which makes them slower."""

    def reset(self) -> None:
        """Discard all times so far."""

    def operators(self) -> list[Operator]:
        """Return the timed operators since creation or reset; the network cannot be run afterwards."""

    def trace(self, file: Path) -> bool:
        """Write a timeline of the operators in Chrome's format (https://ui.perfetto.dev), after ``operators``.

        Args:
            file: name that ends in ``.json`` or ``.json.gz``.

        Returns:
            Whether this runtime records a timeline.
        """


class Runtime(Spec, ABC):
    """A library that runs models. Importing its file must not import the library.

    A runtime with its own file format names it in ``accepts``; a step that produces this format is inserted into its
    recipes. A device of its own in ``devices`` is a target's device as soon as the package is installed.
    """

    accepts: ClassVar[Format]
    """Format of the models that it loads: ``torch``, ``onnx`` or its own."""
    devices: ClassVar[tuple[str, ...]]
    """Devices that it can run on."""
    libraries: ClassVar[tuple[str, ...]]
    """Modules that must be importable."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages of pip whose versions are recorded with measurements; ``libraries`` if empty."""

    @classmethod
    def unwritten(cls) -> list[str]:
        """Return the members that are missing, also those without a default."""
        return [*super().unwritten(), *(name for name in ("accepts", "devices", "libraries") if not hasattr(cls, name))]

    @property
    def own_device(self) -> Device:
        """Return the device that its fields require; the CPU if it runs on several."""
        return "cpu" if "cpu" in self.devices else self.devices[0]

    def unsupported_reason(self, target: Target) -> str | None:
        """Return why it cannot run on a target with these fields, or None.

        It is called on the target's machine before anything is built, and should import no library if possible.
        """
        if target.device not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)} here, not on {target.device}"
        if missing := self.missing:
            return f"{self.name} needs {needed(missing)}"
        return None

    @property
    def signed_int8(self) -> bool:
        """Return whether it reads only signed, symmetric INT8 with zero points of 0; x86 needs unsigned activations."""
        return False

    def scheme_unsupported_reason(self, scheme: str, target: Target) -> str | None:  # noqa: ARG002 - for overriding
        """Return why a model quantized by a scheme would not compute in it on a target, or None.

        It is called for every recipe on any machine, and gives only reasons that hold on all of them.
        """
        return None

    @property
    def missing(self) -> list[str]:
        """Return its libraries that are not installed here."""
        return not_installed(self.libraries)

    @abstractmethod
    def load(self, artefact: Artefact, target: Target) -> NetworkRunner:
        """Return the artefact's network, loaded with the target's threads set and read back.

        Raises:
            RuntimeError: device, threads or precision are not the requested ones.
        """

    @property
    def runs_single_layers(self) -> bool:
        """Return whether ``layer_runner`` loads a single layer in less than a second."""
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
            RuntimeError: device, threads or precision are not the requested ones.
        """
        raise NotImplementedError(f"{self.name} does not run single layers")

    def load_timed(self, artefact: Artefact, target: Target) -> TimedNetworkRunner:
        """Return the artefact's network, loaded with its operators timed one by one.

        Raises:
            NotImplementedError: this runtime does not time its operators.
            RuntimeError: device, threads or precision are not the requested ones.
        """
        raise NotImplementedError(f"{self.name} does not time its operators (it has no load_timed)")
