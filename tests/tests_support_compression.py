"""A small detector, data in memory, and models to compress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn

from paretune.compression.export import Export
from paretune.config.job import Job
from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.networks.network_files import copy_network, save_network
from paretune.testing.samples import CLASSES, SETTINGS, SIZE, MixedDetector, same_state
from paretune.testing.samples import InMemorySplit as Pictures
from paretune.testing.samples import MixedNetwork as Mixed
from paretune.testing.samples import sample_context as context
from paretune.testing.samples import sample_model as model
from paretune.testing.samples import sample_split as pictures
from paretune.testing.samples import state_copy as state
from paretune.workflows.trial_context import TrialContext

__all__ = [
    "CLASSES",
    "MIXED_JOB",
    "SETTINGS",
    "SIZE",
    "Mixed",
    "MixedDetector",
    "Pictures",
    "Upsampling",
    "UpsamplingDetector",
    "context",
    "exported",
    "mixed_trials",
    "model",
    "outputs",
    "pictures",
    "same_state",
    "state",
    "with_channels_at_zero",
    "with_different_biases",
]


MIXED_JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": "mixed",
    "input_size": "64x48",
    "space": "none.yaml",
    "training": {"threads": 1},
    "measuring": {"energy_seconds": 0, "repetitions": 2, "max_extra_repetitions": 0, "seconds": 0.05},
}
"""A job of the detector of mixed layers, whose trials take a second."""


@contextmanager
def mixed_trials(folder: Path) -> Iterator[TrialContext]:
    """Yield what the trials of ``MIXED_JOB`` share, with an untrained baseline; torch's threads are restored."""
    threads = torch.get_num_threads()
    with patch.dict(DETECTORS.rows, {"mixed": "tests_support_compression:MixedDetector"}):
        job = Job.model_validate(MIXED_JOB)
        save_network(model(MixedDetector()).network, folder / "baseline")
        try:
            yield TrialContext(job, job.dataset.open(folder / "cache"), folder / "sweep", folder / "baseline")
        finally:
            torch.set_num_threads(threads)


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
