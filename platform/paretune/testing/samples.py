"""A small detector with every kind of layer that pruning couples, data in memory, and models to compress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from paretune.compression.base import Context
from paretune.core.model import Model
from paretune.core.types import Annotations, Data, Detections, Floats, Image, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import OWN, BoxLoss, ClassLoss, Detector, Losses
from paretune.networks.network_files import count
from paretune.training.settings import Training

SIZE = InputSize(64, 48)
CLASSES = ("disc", "bar")
SETTINGS = Training(epochs=3, batch_size=4, lr=2e-3, threads=1)


class MixedNetwork(nn.Module):
    """Residual, concatenation, depthwise, a convolution without a norm: what pruning has to keep together."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        """Build the layers, each norm from its number of channels."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 4, 1, bias=False), norm(32), nn.SiLU())
        self.same = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, bias=False), norm(32), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1, groups=32, bias=False), norm(32), nn.SiLU())
        self.plain = nn.Sequential(nn.Conv2d(64, 48, 1), nn.ReLU())
        self.box = nn.Conv2d(48, 4, 1)
        self.score = nn.Conv2d(48, len(CLASSES), 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return maps of boxes and scores at a quarter of the input's size."""
        x = self.stem(images)
        x = x + self.same(x)
        x = self.plain(torch.cat((x, self.deep(x)), 1))
        return self.box(x), self.score(x)


class MixedDetector(Detector):
    """A detector around `MixedNetwork`: nothing that it finds means anything."""

    name: ClassVar[str] = "mixed"
    box_losses: ClassVar[tuple[BoxLoss, ...]] = ()
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ()

    norm: Literal["batch", "frozen", "none"] = "batch"
    """What normalises."""

    @property
    def preprocess(self) -> Preprocess:
        """Keep the image's shape."""
        return Preprocess(resize="letterbox")

    def size_unsupported_reason(self, size: InputSize) -> str | None:  # noqa: ARG002 - it takes any
        """Return None."""
        return None

    def build(self, num_classes: int) -> nn.Module:  # noqa: ARG002 - always those of ``CLASSES``
        """Build the network."""
        from torchvision.ops import FrozenBatchNorm2d

        kinds = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "none": lambda _: nn.Identity()}
        return MixedNetwork(kinds[self.norm])

    def raw_names(self) -> tuple[str, ...]:
        """Return the names of both maps."""
        return ("box", "score")

    def decode(
        self,
        raw: Sequence[Floats],
        size: InputSize,  # noqa: ARG002 - nothing is found
        thresholds: Thresholds,  # noqa: ARG002 - the same
    ) -> list[Detections]:
        """Find nothing in any image."""
        nothing = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
        return [nothing for _ in raw[0]]

    def loss(
        self,
        raw: Sequence[Tensor],
        annotations: Sequence[Annotations],  # noqa: ARG002 - the maps alone are pulled to constants
        size: InputSize,  # noqa: ARG002 - the same
        losses: Losses = OWN,  # noqa: ARG002 - the same
    ) -> dict[str, Tensor]:
        """Pull boxes to 0 and scores to 1."""
        return {"box": raw[0].square().mean(), "score": (raw[1] - 1).square().mean()}

    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return the network."""
        return network

    def protected(self, network: nn.Module) -> list[nn.Module]:
        """Return both predictors."""
        return [network.get_submodule("box"), network.get_submodule("score")]


@dataclass(frozen=True)
class InMemorySplit:
    """A split in memory; remembers which pictures were read."""

    pictures: tuple[Image, ...]
    classes: tuple[str, ...] = CLASSES
    name: str = "train"
    read: list[int] = field(default_factory=list)

    @property
    def ids(self) -> tuple[str, ...]:
        """Return the images' names."""
        return tuple(f"{self.name}-{index}" for index in range(len(self.pictures)))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.pictures)

    def image(self, index: int) -> Image:
        """Return one image, and note that it was read."""
        self.read.append(index)
        return self.pictures[index]

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) of one image."""
        height, width = self.pictures[index].shape[:2]
        return width, height

    def annotations(self, index: int) -> Annotations:
        """Return one box."""
        return Annotations(np.array([[4, 6, 30, 28]], np.float32), np.array([index % 2]), np.zeros(1, bool))


def sample_split(count: int, name: str = "train", seed: int = 0) -> InMemorySplit:
    """Return images of blurred noise, the later the brighter."""
    random = np.random.default_rng(seed)
    made = []
    for index in range(count):
        coarse = random.integers(0, 40 + 215 * (index + 1) // count, (6, 8, 3), dtype=np.uint8)
        made.append(coarse.repeat(8, 0).repeat(8, 1))
    return InMemorySplit(tuple(made), name=name)


def sample_context(
    workdir: Path, detector: Detector | None = None, train: InMemorySplit | None = None, **more: Any
) -> Context:
    """Return what a step may use: eight images to train on and two of validation, unless others are given."""
    splits: dict[str, Any] = {"train": train or sample_split(8), "val": sample_split(2, "val", seed=1)}
    workdir.mkdir(parents=True, exist_ok=True)
    return Context(
        detector=detector or MixedDetector(),
        data=Data(CLASSES, splits, "0"),
        training=more.pop("training", SETTINGS),
        workdir=workdir,
        **more,
    )


def sample_model(detector: Detector | None = None, size: InputSize = SIZE, seed: int = 0) -> Model:
    """Return a network with weights and statistics as unlike each other as those of a trained one."""
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


def state_copy(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all of a network's tensors."""
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_state(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Tell whether two copies hold equal tensors."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
