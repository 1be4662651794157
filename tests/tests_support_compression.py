"""A small detector, data in memory, and models to compress."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from paretune.compression.export import Export
from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.detectors.base import Detector
from paretune.networks.network_files import copy_network
from paretune.testing.samples import CLASSES, SETTINGS, SIZE, MixedDetector, same_state
from paretune.testing.samples import InMemorySplit as Pictures
from paretune.testing.samples import MixedNetwork as Mixed
from paretune.testing.samples import sample_context as context
from paretune.testing.samples import sample_model as model
from paretune.testing.samples import sample_split as pictures
from paretune.testing.samples import state_copy as state

__all__ = [
    "CLASSES",
    "SETTINGS",
    "SIZE",
    "Mixed",
    "MixedDetector",
    "Pictures",
    "context",
    "exported",
    "model",
    "outputs",
    "pictures",
    "same_state",
    "state",
    "with_channels_at_zero",
    "with_different_biases",
]


class Upsampling(nn.Module):
    """Down and up again: group norms, a transposed convolution that is added to what it came from, a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1), nn.GroupNorm(4, 32), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(32, 48, 3, 2, 1), nn.GroupNorm(8, 48), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(48, 32, 2, 2), nn.BatchNorm2d(32), nn.ReLU())
        self.deep = nn.Sequential(nn.ConvTranspose2d(32, 32, 2, 2, groups=32), nn.GroupNorm(1, 32), nn.ReLU())
        self.box = nn.Conv2d(32, 4, 1)
        self.score = nn.Conv2d(32, len(CLASSES), 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)
        x = self.deep(x + self.up(self.down(x)))
        return self.box(x), self.score(x)


class UpsamplingDetector(MixedDetector):
    """A detector around a network with group norms and transposed convolutions."""

    name: ClassVar[str] = "upsampling"

    def build(self, num_classes: int) -> nn.Module:
        return Upsampling()


def exported(workdir: Path, detector: Detector | None = None, train: Pictures | None = None) -> Model:
    """The same as a file."""
    return Export().apply(model(detector), context(workdir, detector, train))


def outputs(network: nn.Module, size: InputSize = SIZE) -> list[Tensor]:
    """What a network says to one fixed picture."""
    image = torch.linspace(-1, 1, 3 * size.height * size.width).reshape(1, 3, size.height, size.width).sin()
    with torch.no_grad():
        return list(network(image))


def with_different_biases(network: nn.Module) -> None:
    """Make every vector's entries differ, so that a bias tells which channel it belongs to."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            if parameter.ndim == 1:
                parameter.add_(torch.rand_like(parameter) * 1e-2 + 1e-6 * number)


def with_channels_at_zero(dense: nn.Module, pruned: nn.Module) -> tuple[nn.Module, int]:
    """Return a copy of the dense network with the channels at zero that the pruned one lacks, and their number."""
    reference, removed = copy_network(dense), 0
    for name, module in reference.named_modules():
        own = getattr(module, "bias", None)
        if own is None:
            continue
        gone = ~torch.isin(own, pruned.get_submodule(name).bias)
        removed += int(gone.sum())
        with torch.no_grad():
            module.weight[gone], own[gone] = 0, 0
    return reference, removed
