"""Eager PyTorch in float32: the reference everything else is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from paretune.detectors import DETECTORS
from paretune.model import Format
from paretune.runtimes.base import Core, Runtime
from paretune.spec import parse_plugin
from paretune.store import Artefact
from paretune.structures import Floats
from paretune.target import Target

if TYPE_CHECKING:
    from torch import nn


class Eager(Runtime):
    """The torch network as it is, operator by operator, in float32."""

    name: ClassVar[str] = "eager"
    accepts: ClassVar[Format] = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "cuda")
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def load(self, artefact: Artefact, target: Target) -> Core:
        """Rebuild the network from its structure and weights.

        Raises:
            RuntimeError: torch does not take the number of threads, or there is no such device.
        """
        import torch

        from paretune.detectors.structure import load_network

        torch.set_num_threads(target.threads)
        if torch.get_num_threads() != target.threads:
            raise RuntimeError(f"torch runs {torch.get_num_threads()} threads, not {target.threads}")
        if target.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("the target is a GPU, and torch finds none")
        network = load_network(parse_plugin(artefact.detector, DETECTORS), len(artefact.classes), artefact.folder)
        network = network.eval().to(target.device)
        facts: dict[str, str | int] = {
            "runtime": f"torch {torch.__version__}",
            "device": target.device,
            "threads": torch.get_num_threads(),
            "precision": str(next(network.parameters()).dtype).removeprefix("torch."),
        }
        return _Network(network, target.device, facts)


@dataclass(frozen=True)
class _Network:
    """A network as a Core."""

    network: nn.Module
    device: str
    facts: dict[str, str | int] = field(default_factory=dict)

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        import torch

        with torch.inference_mode():
            raw = self.network(torch.from_numpy(batch).to(self.device))
            return tuple(tensor.cpu().numpy() for tensor in raw)
