"""A runtime with its own file format and device, and the step that exports for it, as a package would add them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from paretune.compression.base import Context, Step
from paretune.core.model import Format, Model
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Floats
from paretune.detectors import DETECTORS
from paretune.runtimes.base import LoadedNetworks, Runtime
from paretune.runtimes.onnx_session import part_file
from paretune.storage.artefact import Artefact


class Pack(Step):
    """Write the weights of the network as one file."""

    name: ClassVar[str] = "pack"
    produces: ClassVar[Format] = "packed"

    def _apply(self, model: Model, context: Context) -> Model:
        file = context.workdir / part_file("core", "packed")
        save_file({name: tensor.clone() for name, tensor in model.torch_network.state_dict().items()}, file)
        return replace(model, network=None, file=file)


@dataclass(frozen=True)
class _Part:
    network: nn.Module

    def __call__(self, batch: Floats) -> tuple[Floats, ...]:
        with torch.no_grad():
            return tuple(tensor.numpy() for tensor in self.network(torch.from_numpy(batch)))


class Packed(Runtime):
    """Packed weights, on an accelerator that only this runtime knows."""

    name: ClassVar[str] = "packed"
    accepts: ClassVar[Format] = "packed"
    devices: ClassVar[tuple[str, ...]] = ("npu",)
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    def load(self, artefact: Artefact, target: Target) -> LoadedNetworks:
        detector = parse_plugin(artefact.detector, DETECTORS)
        network = detector.build(len(artefact.classes)).eval()
        network.load_state_dict(load_file(artefact.file(part_file("core", "packed"))))
        facts = {"runtime": "packed 1.0", "device": target.device, "threads": target.threads, "precision": "fp32"}
        return LoadedNetworks(detector, {"core": _Part(network)}, artefact.input_size, facts)
