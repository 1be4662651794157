"""A small detector, data in memory, and models to compress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paretune.compression.base import Context
from paretune.compression.export import Export
from paretune.core.model import Model
from paretune.core.types import Annotations, Data, Detections, Floats, Image, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import OWN, BoxLoss, ClassLoss, Detector, Losses
from paretune.detectors.nms import no_detections
from paretune.networks.network_files import copy_network, count
from paretune.training.settings import Training

SIZE = InputSize(64, 48)
CLASSES = ("disc", "bar")
SETTINGS = Training(epochs=3, batch_size=4, lr=2e-3, threads=1)


class Mixed(nn.Module):
    """Residual, concatenation, depthwise, a convolution without a norm: what pruning has to keep together."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1, bias=False), norm(32), nn.SiLU())
        self.same = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, bias=False), norm(32), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False), norm(32), nn.SiLU())
        self.plain = nn.Sequential(nn.Conv2d(64, 48, 1), nn.ReLU())
        self.box = nn.Conv2d(48, 4, 1)
        self.score = nn.Conv2d(48, len(CLASSES), 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(images)
        x = x + self.same(x)
        x = self.plain(torch.cat((x, self.deep(x)), 1))
        return self.box(x), self.score(x)


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


class MixedDetector(Detector):
    """A detector around ``Mixed``: nothing that it finds means anything."""

    name: ClassVar[str] = "mixed"
    box_losses: ClassVar[tuple[BoxLoss, ...]] = ()
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ()

    norm: Literal["batch", "frozen", "none"] = "batch"
    """What normalises."""

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(resize="letterbox")

    def size_unsupported_reason(self, size: InputSize) -> str | None:
        return None

    def build(self, num_classes: int) -> nn.Module:
        from torchvision.ops import FrozenBatchNorm2d

        kinds = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "none": lambda _: nn.Identity()}
        return Mixed(kinds[self.norm])

    def raw_names(self) -> tuple[str, ...]:
        return ("box", "score")

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        return [no_detections() for _ in raw[0]]

    def loss(
        self, raw: Sequence[Tensor], annotations: Sequence[Annotations], size: InputSize, losses: Losses = OWN
    ) -> dict[str, Tensor]:
        return {"box": raw[0].square().mean(), "score": (raw[1] - 1).square().mean()}

    def prune_view(self, network: nn.Module) -> nn.Module:
        return network

    def protected(self, network: nn.Module) -> list[nn.Module]:
        return [network.get_submodule("box"), network.get_submodule("score")]


class UpsamplingDetector(MixedDetector):
    """A detector around a network with group norms and transposed convolutions."""

    name: ClassVar[str] = "upsampling"

    def build(self, num_classes: int) -> nn.Module:
        return Upsampling()


@dataclass(frozen=True)
class Pictures:
    """A split in memory; remembers which pictures were read."""

    pictures: tuple[Image, ...]
    classes: tuple[str, ...] = CLASSES
    name: str = "train"
    read: list[int] = field(default_factory=list)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"{self.name}-{index}" for index in range(len(self.pictures)))

    def __len__(self) -> int:
        return len(self.pictures)

    def image(self, index: int) -> Image:
        self.read.append(index)
        return self.pictures[index]

    def size(self, index: int) -> tuple[int, int]:
        height, width = self.pictures[index].shape[:2]
        return width, height

    def annotations(self, index: int) -> Annotations:
        return Annotations(np.array([[4, 6, 30, 28]], np.float32), np.array([index % 2]), np.zeros(1, bool))


def pictures(count: int, name: str = "train", seed: int = 0) -> Pictures:
    """Blurred noise of different brightness."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        coarse = random.integers(0, 40 + 215 * (index + 1) // count, (6, 8, 3), dtype=np.uint8)
        made.append(coarse.repeat(8, 0).repeat(8, 1))
    return Pictures(tuple(made), name=name)


def context(workdir: Path, detector: Detector | None = None, train: Pictures | None = None, **more: Any) -> Context:
    """Eight training pictures, two of validation."""
    splits = {"train": train or pictures(8), "val": pictures(2, "val", seed=1)}
    workdir.mkdir(parents=True, exist_ok=True)
    return Context(
        detector=detector or MixedDetector(),
        data=Data(CLASSES, splits, "0"),
        training=more.pop("training", SETTINGS),
        workdir=workdir,
        **more,
    )


def model(detector: Detector | None = None, size: InputSize = SIZE, seed: int = 0) -> Model:
    """A network with weights and statistics as unlike each other as those of a trained one."""
    torch.manual_seed(seed)
    network = (detector or MixedDetector()).build(len(CLASSES)).eval()
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():
        for name, tensor in tensors.items():
            if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith(("running_mean", "bias")):
                tensor.normal_(0, 0.3)
    params, flops = count(network, size)
    return Model(network, None, size, params=params, flops=flops)


def exported(workdir: Path, detector: Detector | None = None, train: Pictures | None = None) -> Model:
    """The same as a file."""
    return Export().apply(model(detector), context(workdir, detector, train))


def outputs(network: nn.Module, size: InputSize = SIZE) -> list[Tensor]:
    """What a network says to one fixed picture."""
    image = torch.linspace(-1, 1, 3 * size.height * size.width).reshape(1, 3, size.height, size.width).sin()
    with torch.no_grad():
        return list(network(image))


def state(network: nn.Module) -> dict[str, Tensor]:
    """A copy of all of a network's tensors."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
