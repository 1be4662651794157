"""torchvision's own detectors with seeded weights that find something, and what they find beside what ours do."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import detection

from paretune.compression.export import Export
from paretune.core.model import Model
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import Detections, Image, InputSize, Thresholds
from paretune.data.image_io import read_image
from paretune.detectors.base import Detector
from paretune.networks.network_files import count
from paretune.runtimes import RUNTIMES
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.predictor import Predictor, load_predictor
from tests_support_compression import context

APART = 1.0
"""Pixels of 640 from which on two boxes are no longer the same detection."""
SAME = 1e-4
"""Scores that are no further apart are the same."""


@dataclass(frozen=True)
class Kept:
    """What is kept in the end, the same on both sides."""

    score: float = 0.05
    iou: float = 0.5
    detections: int = 100

    def theirs(self) -> dict[str, Any]:
        """As torchvision's Faster R-CNN is told; its SSD without the ``box_``."""
        return {"box_score_thresh": self.score, "box_nms_thresh": self.iou, "box_detections_per_img": self.detections}

    def ours(self) -> Thresholds:
        """As an artefact is told; all candidates, where torchvision limits them by class."""
        return Thresholds(self.score, self.iou, candidates=1_000_000, detections=self.detections)


KEPT = Kept()


def reference(variant: str, outputs: int, kept: Kept = KEPT, **more: Any) -> nn.Module:
    """torchvision's own model with fresh weights, for so many outputs, background included."""
    told = kept.theirs()
    if variant.startswith("ssd"):
        told = {key.removeprefix("box_"): value for key, value in told.items()} | {"topk_candidates": 1_000_000}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: nn.Module = getattr(detection, variant)(
            weights=None, weights_backbone=None, num_classes=outputs, **told, **more
        )
    return made


def tensors(images: Sequence[Image]) -> list[Tensor]:
    """Pictures as torchvision's models take them."""
    return [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255 for image in images]


def seeded(variant: str, outputs: int, images: Sequence[Image], seed: int = 0, **more: Any) -> nn.Module:
    """A reference whose scores lie apart, as a trained one's do, with boxes that are moved, on these pictures.

    Fresh statistics of norms would let every signal vanish, and fresh predictors find every class everywhere.
    """
    torch.manual_seed(seed)
    model: Any = reference(variant, outputs, **more)
    shown = tensors(images)
    with torch.no_grad():
        _settle_norms(model, shown[:4])
        for layers, spread, constant in _predictors(model):
            seen: list[Tensor] = []
            hooks = [layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out)) for layer in layers]
            for layer in layers:
                layer.bias.zero_()
            for image in shown[:3]:
                model([image])
            for hook in hooks:
                hook.remove()
            for layer in layers:
                layer.weight.mul_(spread / torch.cat([entry.flatten() for entry in seen]).std())
                layer.bias.normal_(0, 0.3)
                if constant:  # the background is as likely as all classes together
                    layer.bias[::constant] += spread**2 / 2 + np.log(constant - 1)
    return model


def _settle_norms(model: nn.Module, images: list[Tensor]) -> None:
    """Give every norm the statistics of these pictures."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    _through(model, images)
    model.eval()
    for norm in norms:  # channels that hardly vary would be blown up, and what is rounded with them
        if norm.running_var is not None:
            norm.running_var.clamp_(min=float(norm.running_var.mean()))


def _through(model: Any, images: list[Tensor]) -> None:
    """Show pictures to everything that has norms; in training mode the model itself wants boxes too."""
    batch = model.transform(images)[0].tensors
    features = model.backbone(batch)
    if hasattr(model, "rpn"):
        model.rpn.head(list(features.values()))
    else:
        model.head(list(features.values()))


def _predictors(model: Any) -> list[tuple[list[Any], float, int]]:
    """Predictors, how far their values are to lie apart, and every how many of their outputs is of the background."""
    if hasattr(model, "rpn"):
        first, second = model.rpn.head, model.roi_heads.box_predictor
        outputs = second.cls_score.out_features
        return [
            ([first.cls_logits], 3, 0),
            ([first.bbox_pred], 0.2, 0),
            ([second.cls_score], 1.5, outputs),
            ([second.bbox_pred], 0.5, 0),
        ]
    head = model.head
    outputs = head.classification_head.num_columns
    levels = [
        [part[-1] if isinstance(part, nn.Sequential) else part for part in kind.module_list]
        for kind in (head.classification_head, head.regression_head)
    ]
    return [([layer], 2.5, outputs) for layer in levels[0]] + [([layer], 1, 0) for layer in levels[1]]


def found_by(model: nn.Module, images: Sequence[Image], *, last_bit: bool = False) -> list[Detections]:
    """What torchvision's model finds, labels without the background; with the last bit of each pixel at random."""
    found, random, shown = [], torch.Generator().manual_seed(0), tensors(images)
    if last_bit:
        bit = torch.finfo(torch.float32).eps
        shown = [image * (1 + bit * (2 * torch.rand(image.shape, generator=random) - 1)) for image in shown]
    with torch.no_grad():
        for image in shown:
            (entry,) = model.eval()([image])
            found.append(
                Detections(
                    entry["boxes"].numpy(), entry["scores"].numpy(), entry["labels"].numpy().astype(np.int64) - 1
                )
            )
    return found


def predictor(
    detector: Detector,
    classes: Sequence[str],
    size: str,
    folder: Path,
    runtime: str = "eager",
    thresholds: Thresholds = KEPT.ours(),  # noqa: B008 - frozen
) -> Predictor:
    """Our detector with the weights that it names, as an artefact that was written and loaded."""
    sides, network = InputSize.parse(size), detector.begin(classes).network.eval()
    params, flops = count(network, sides)
    model = Model(network, None, sides, params=params, flops=flops)
    if runtime != "eager":
        model = Export().apply(model, context(folder / "work", detector))
    write_artefact(
        folder / runtime,
        model,
        detector=detector,
        runtime=parse_plugin(runtime, RUNTIMES),
        recipe_tree={},
        classes=classes,
        thresholds=thresholds,
    )
    return load_predictor(folder / runtime, Target())


@dataclass(frozen=True)
class Off:
    """How far two sets of detections of the same pictures are from each other."""

    detections: int
    """Of torchvision."""
    classes: int
    """Different ones among them."""
    missing: int
    """Without one of ours within a pixel."""
    added: int
    """Ours beyond those."""
    undecided: int
    """On one side only, but with a score that rounding alone may bring over the threshold, or out of the most kept."""
    box: float
    """Largest difference of a corner, in pixels of pictures whose longer side is 640."""
    score: float
    """Largest difference of a score."""


def off(ours: Sequence[Detections], theirs: Sequence[Detections], images: Sequence[Image], kept: Kept = KEPT) -> Off:
    """Pair the detections of each class, nearest boxes first, and compare them."""
    missing = added = undecided = 0
    boxes, scores, seen = [0.0], [0.0], set()
    for mine, other, image in zip(ours, theirs, images, strict=True):
        unit = 640 / max(image.shape[:2])
        left = set(range(len(mine.scores)))
        seen |= set(other.labels.tolist())
        full = len(other.scores) == kept.detections
        sure = (float(other.scores.min()) if full else kept.score) + SAME
        for box, score, label in zip(other.boxes, other.scores, other.labels, strict=True):
            near = [(float(np.abs(mine.boxes[at] - box).max()) * unit, at) for at in left if mine.labels[at] == label]
            distance, at = min(near, default=(np.inf, -1))
            if distance > APART:
                missing, undecided = missing + (score > sure), undecided + (score <= sure)
                continue
            left.remove(at)
            boxes.append(distance)
            scores.append(abs(float(mine.scores[at]) - float(score)))
        beyond = sum(float(mine.scores[at]) > sure for at in left)
        added, undecided = added + beyond, undecided + len(left) - beyond
    total = sum(len(entry.scores) for entry in theirs)
    return Off(total, len(seen), int(missing), int(added), int(undecided), max(boxes), max(scores))


def of_size(folder: Path, width: int, height: int, count: int) -> list[Image]:
    """The first photographs of a size, by name."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))
    images = (image for image in map(read_image, files) if image.shape[:2] == (height, width))
    found = [image for _, image in zip(range(count), images, strict=False)]
    assert len(found) == count, folder
    return found


def saved(model: nn.Module, file: Path, around: Mapping[str, Any] | None = None) -> str:
    """Write a model's weights as torchvision's users do; returns the path."""
    torch.save(model.state_dict() if around is None else {"model": model.state_dict(), **around}, file)
    return str(file)
