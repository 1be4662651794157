"""Eager PyTorch in float32: the plain baseline that everything else is compared with."""

from __future__ import annotations

from dataclasses import dataclass
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

        The number of threads, and on a GPU the precision of convolutions, hold for the whole process:
        torch has no other place for them.

        Raises:
            RuntimeError: torch does not take the number of threads, there is no such device, or
                something would not run in float32.
        """
        import torch

        from paretune.detectors.structure import load_network

        torch.set_num_threads(target.threads)
        if torch.get_num_threads() != target.threads:
            raise RuntimeError(f"torch runs {torch.get_num_threads()} threads, not {target.threads}")
        if target.device == "cuda":
            if not torch.cuda.is_available():
                raise RuntimeError("the target is a GPU, and torch finds none")
            _forbid_tf32()
        network = load_network(parse_plugin(artefact.detector, DETECTORS), len(artefact.classes), artefact.folder)
        network = network.eval().requires_grad_(False).to(target.device)
        return _Network(network, target.device, _facts(network))


def _forbid_tf32() -> None:
    """Let convolutions on a GPU run in float32; torch's own default rounds their inputs to 10 bits (TF32)."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    if torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32:
        raise RuntimeError("torch does not leave TF32, so this would not be float32")


def _facts(network: nn.Module) -> dict[str, str | int]:
    """Read back what will run."""
    import torch

    types = {str(tensor.dtype).removeprefix("torch.") for tensor in network.parameters()}
    if types - {"float32"}:
        raise RuntimeError(f"eager runs in float32, and the network's weights are {', '.join(sorted(types))}")
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    return {
        "runtime": f"torch {torch.__version__}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": "fp32",
    }


@dataclass(frozen=True)
class _Network:
    """A network as a Core."""

    network: nn.Module
    device: str
    facts: dict[str, str | int]

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        import torch

        with torch.inference_mode():
            raw = self.network(torch.from_numpy(batch).to(self.device))
            return tuple(tensor.cpu().numpy() for tensor in raw)
