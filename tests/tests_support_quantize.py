"""Networks whose random weights say something, and pictures labelled by what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from paretune.compression.base import Context
from paretune.compression.export import Export
from paretune.core.model import Model
from paretune.core.types import Annotations, Data, Detections, Floats, InputSize, Thresholds
from paretune.detectors.base import Detector
from paretune.networks.part_runner import in_eager
from tests_support_compression import CLASSES, SIZE, MixedDetector, Pictures, context, model


class Grid(MixedDetector):
    """A box of either class in every cell of the map, 4 pixels wide; no two are one object."""

    name: ClassVar[str] = "grid"

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        boxes, scores = raw
        rows, columns = np.mgrid[: boxes.shape[2], : boxes.shape[3]]
        middle = np.stack([columns, rows])[None] * 4 + 2 + np.tanh(boxes[:, :2])
        half = 4 + 2 * np.tanh(boxes[:, 2:])
        corners = np.concatenate([middle - half, middle + half], 1).astype(np.float32)
        found = []
        for corner, logits in zip(corners, scores, strict=True):
            sure = 1 / (1 + np.exp(-logits))
            label, row, column = np.nonzero(sure >= thresholds.score)
            order = np.argsort(-sure[label, row, column], kind="stable")[: thresholds.detections]
            label, row, column = label[order], row[order], column[order]
            found.append(Detections(corner[:, row, column].T, sure[label, row, column].astype(np.float32), label))
        return found


GRID = Grid()


def photographs(count: int, name: str = "train", seed: int = 0, size: InputSize = SIZE) -> Pictures:
    """Large and small patches of colour, each picture of a brightness of its own.

    Small ones alone are the same everywhere to the coarsest maps, whose norms then make signals of noise.
    """
    random = np.random.default_rng(seed)
    shape = (count, size.height, size.width, 3)
    made = np.zeros(shape, np.float32)
    for patch, weight in ((32, 0.6), (8, 0.4)):
        some = random.random((count, -(-size.height // patch), -(-size.width // patch), 3), np.float32)
        made += weight * some.repeat(patch, 1).repeat(patch, 2)[:, : size.height, : size.width]
    made *= random.uniform(0.3, 1, (count, 1, 1, 3))
    return Pictures(tuple((made * 255).astype(np.uint8)), name=name)


def sure(detector: Detector = GRID, size: InputSize = SIZE, seed: int = 0) -> Model:
    """A network with the statistics of its own signal, whose scores lie apart as a trained one's do.

    Random weights between norms pass an error on larger than they were given it, layer by layer (Yang et al., ICLR
    2019, arXiv:1902.08129), as trained ones do not: so activations are kept where they are nearly linear.
    """
    made = model(detector, size, seed)
    network = made.network
    assert network is not None
    split = photographs(16, seed=9, size=size)
    images = torch.from_numpy(np.stack([detector.preprocess(picture, size)[0] for picture in split.pictures]))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.train().momentum = None  # statistics of all it has seen
            norm.reset_running_stats()
            norm.weight.fill_(1)
            norm.bias.fill_(2)
        network(images)
        for norm in norms:
            norm.eval().momentum = 0.1
        names = {module: name for name, module in network.named_modules()}
        for layer in detector.protected(network):
            seen: list[torch.Tensor] = []
            layer.bias.zero_()
            hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.flatten()))
            network(images)
            hook.remove()
            boxes = any(word in names[layer] for word in ("reg", "box"))
            layer.weight.mul_((0.5 if boxes else 3) / torch.cat(seen).std())
    return made


@dataclass(frozen=True)
class Labelled(Pictures):
    """Pictures whose objects are given."""

    truth: tuple[Annotations, ...] = ()

    def annotations(self, index: int) -> Annotations:
        return self.truth[index]


def found(detector: Detector, made: Model, pictures: Pictures, least: float = 0.3) -> list[Detections]:
    """What the network finds in eager, in pixels of the picture."""
    assert made.network is not None
    run, results = in_eager(made.network), []
    for picture in pictures.pictures:
        planes, placement = detector.preprocess(picture, made.input_size)
        (boxes,) = detector.decode(run(planes[None]), made.input_size, Thresholds(score=least))
        results.append(replace(boxes, boxes=placement.to_image(boxes.boxes)))
    return results


def labelled_by(detector: Detector, made: Model, pictures: Pictures) -> Labelled:
    """Take what the float network finds for the truth: it then has map 1, and what differs from it has less."""
    truth = [Annotations(f.boxes, f.labels, np.zeros(len(f.labels), bool)) for f in found(detector, made, pictures)]
    return Labelled(pictures.pictures, name=pictures.name, truth=tuple(truth))


def guarded_context(workdir: Path, made: Model, detector: Detector = GRID) -> Context:
    """Training pictures, and two splits that are labelled by the float network."""
    splits = {
        "train": photographs(12),
        "val": labelled_by(detector, made, photographs(6, "val", seed=1)),
        "test": labelled_by(detector, made, photographs(6, "test", seed=2)),
    }
    return replace(context(workdir, detector), data=Data(CLASSES, splits, "0"))


def sure_file(workdir: Path, detector: Detector = GRID, size: InputSize = SIZE) -> tuple[Model, Model]:
    """The network, and the same exported."""
    made = sure(detector, size)
    return made, Export().apply(made, context(workdir, detector, photographs(4, size=size)))
