"""Faster R-CNN, as a detector: regions proposed by one network, classified by another.

Ren et al., NeurIPS 2015 (arXiv:1506.01497), with a feature pyramid (Lin et al., arXiv:1612.03144).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from paretune.data.preprocess import Preprocess
from paretune.detectors.base import OWN, BoxLoss, ClassLoss, Compared, Detector, Losses
from paretune.fields import Field, ValidationInfo, field_validator, model_validator
from paretune.names import known_weights
from paretune.structures import Annotations, Detections, Floats, InputSize, Thresholds

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.detectors.frcnn_network import FasterRcnn as Network

_SMALLEST = 64
"""Side in pixels; below it the coarsest level is less than a cell."""


class FasterRcnn(Detector):
    """Faster R-CNN on torchvision's networks; parameters have the names and shapes of its checkpoints."""

    name: ClassVar[str] = "faster_rcnn"
    usual_lr: ClassVar[float] = 1e-3
    box_losses: ClassVar[tuple[BoxLoss, ...]] = ("smooth_l1", "iou", "giou", "diou", "ciou")
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ("cross_entropy", "focal")
    boxes_compared: ClassVar[Compared | None] = "offsets"
    classes_compared: ClassVar[Compared | None] = "labels"
    part_names: ClassVar[tuple[str, ...]] = ("core", "box")
    answers_from: ClassVar[tuple[str, ...]] = ("rpn.head", "regions", "roi_heads.box_predictor")

    variant: Literal["mobilenet_v3_large_320_fpn", "mobilenet_v3_large_fpn", "resnet50_fpn", "resnet50_fpn_v2"] = (
        "mobilenet_v3_large_320_fpn"
    )
    """The network: 19 million parameters for small machines, or 41 to 44 million."""
    weights: str | None = None
    """Weights to start from, by torchvision's name: COCO_V1 (predictors only for its 90 classes); the backbone's norms
    then keep their statistics."""
    proposals: int = Field(default=100, ge=1, le=1000)
    """Regions of an image that the second network sees: fixed, so that latency is."""
    least: float = Field(default=0.05, ge=0, lt=1)
    """Score below which a region is none."""
    samples: int = Field(default=512, ge=8, le=2048)
    """Regions of an image that the second network is trained on, a quarter of them on objects."""
    anchor: float = Field(default=32, ge=4, le=512)
    """Side in pixels of the smallest anchors, of the network's input; the others are 2, 4, 8 and 16 times as large."""
    head_width: int | None = Field(default=None, ge=16, le=4096)
    """Outputs of the two layers of the MobileNets' second network; torchvision's are 1024."""

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: str | None, info: ValidationInfo) -> str | None:
        return None if weights is None else known_weights(weights, f"fasterrcnn_{info.data.get('variant', '')}")

    @model_validator(mode="after")
    def _check_fields(self) -> FasterRcnn:
        if self.head_width is not None and not self._mobile:
            raise ValueError("head_width is for the MobileNets only")
        if self.head_width is not None and self.weights is not None:
            raise ValueError("weights are for torchvision's own head_width only")
        return self

    @property
    def _mobile(self) -> bool:
        return self.variant.startswith("mobilenet")

    @property
    def _levels(self) -> int:
        return 3 if self._mobile else 5

    @property
    def _sizes(self) -> tuple[tuple[float, ...], ...]:
        steps = tuple(self.anchor * 2**power for power in range(5))
        return (steps,) * 3 if self._mobile else tuple((step,) for step in steps)

    @property
    def preprocess(self) -> Preprocess:
        """Letterbox, RGB, torchvision's mean and scale; the rest is grey, which is nearly nought after that."""
        return Preprocess(resize="letterbox", fill=116, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def size_problem(self, size: InputSize) -> str | None:
        """Ask for multiples of 32, so that every level's cells are of one size."""
        if size.width % 32 or size.height % 32 or min(size.width, size.height) < _SMALLEST:
            return f"both sides must be multiples of 32, at least {_SMALLEST}, for {self.variant}"
        return None

    @property
    def most_boxes(self) -> float:
        """Return the number of proposals: of each, hardly more than one box is kept."""
        return self.proposals

    def build(self, num_classes: int) -> nn.Module:
        """Build the network with torch's random state; forward gives ``raw_names``, with targets the losses."""
        from paretune.detectors.frcnn_network import build

        return build(
            self.variant,
            num_classes,
            self._sizes,
            self._regions,
            samples=self.samples,
            frozen=self.weights is not None,
            head_width=self.head_width,
        )

    def initial(self, num_classes: int) -> nn.Module:
        """Build the network, with torchvision's weights if they are asked for."""
        network = self.build(num_classes)
        if self.weights is None:
            return network
        from paretune.detectors.pretrained import fetch, load_detector

        model = f"fasterrcnn_{self.variant}"
        state = fetch(model, self.weights)
        own = network.state_dict()  # torchvision's frozen norms count no batches
        state |= {name: own[name] for name in own if name.endswith("num_batches_tracked") and name not in state}
        load_detector(network, state, ("roi_heads.box_predictor.",), f"weights {self.weights} of {model}")
        return network

    def suited(self, smallest: float, largest: float, size: InputSize) -> dict[str, tuple[Any, str]]:  # noqa: ARG002 five sizes follow
        """Return the side of the smallest anchors; weights of a detector were trained with theirs."""
        if self.weights is not None:
            return {}
        side = smallest * (size.width * size.height) ** 0.5
        anchor = float(min(max(2 ** round(np.log2(max(side, 1))), 8), 64))
        return {"anchor": (anchor, f"a small object is {side:.0f} pixels wide in the input")}

    def raw_names(self) -> tuple[str, ...]:
        """Regions (B, R, 4), zero where there is none; class logits (B, R, C + 1); offsets (B, R, 4·(C + 1))."""
        return ("regions", "class", "box")

    def part_outputs(self, part: str) -> tuple[str, ...]:
        """Maps that regions are pooled from, objectness and offsets of every level; logits and offsets of regions."""
        if part == "box":
            return ("class", "box")
        maps = tuple(f"map_{level}" for level in range(self._levels - 1))
        return (*maps, *(f"{kind}_{level}" for kind in ("objectness", "offset") for level in range(self._levels)))

    def part_modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return both networks."""
        from paretune.detectors.frcnn_network import Box, Core

        return {"core": Core(cast("Network", network)), "box": Box(cast("Network", network))}

    def run(
        self, parts: Mapping[str, Callable[[Floats], Sequence[Floats]]], batch: Floats, size: InputSize
    ) -> tuple[Floats, ...]:
        """First network, regions, RoIAlign, second network; of each image of the batch by itself."""
        from paretune.detectors.frcnn_host import pooled

        maps = parts["core"](batch)
        regions = self._regions(maps, size)
        levels = maps[: self._levels - 1]
        found = [
            parts["box"](pooled([plane[image] for plane in levels], regions[image], size))
            for image in range(len(batch))
        ]
        return (regions, *(np.stack(entries) for entries in zip(*found, strict=True)))

    def _regions(self, maps: Sequence[Floats], size: InputSize) -> Floats:
        from paretune.detectors.frcnn_host import anchors, propose

        first = self._levels - 1
        objectness, offsets = maps[first : first + self._levels], maps[first + self._levels :]
        levels = anchors(tuple(plane.shape[2:] for plane in objectness), self._sizes, size)
        return propose(objectness, offsets, levels, size, self.proposals, self.least)

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        """Score = softmax over the classes and the background."""
        from paretune.detectors.frcnn_host import decode

        return decode(raw, size, thresholds)

    def training_loss(
        self, forward: Callable[..., Any], images: Tensor, annotations: Sequence[Annotations], losses: Losses = OWN
    ) -> dict[str, Tensor]:
        """Return the terms ``objectness`` and ``region`` of the first network, ``class`` and ``box`` of the second."""
        terms: dict[str, Tensor] = forward(images, annotations, losses)
        return terms

    def teach(self, teacher: nn.Module, images: Tensor, shown: Mapping[str, Sequence[Tensor]]) -> None:
        """Run the teacher's first network, and its second one on the student's regions."""
        cast("Network", teacher).judge(images, shown.get("regions"))

    def imitation(
        self,
        shown: Mapping[str, Sequence[Tensor]],
        wanted: Mapping[str, Sequence[Tensor]],
        annotations: Sequence[Annotations],  # noqa: ARG002 the teacher's certainty takes their place
        size: InputSize,  # noqa: ARG002 offsets are compared, not boxes
        temperature: float,
    ) -> dict[str, Tensor]:
        """Return the terms ``objectness`` and ``region`` of the first network, ``class`` and ``box`` of the second."""
        from paretune.detectors.imitating import frcnn_classes, frcnn_regions

        first, _, second = self.answers_from
        return {
            **frcnn_regions(shown[first], wanted[first]),
            **frcnn_classes(shown[second], wanted[second], temperature),
        }

    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return both networks as one, with pooling in place of RoIAlign."""
        from paretune.detectors.frcnn_network import PruneView

        return PruneView(cast("Network", network))

    def protected(self, network: nn.Module) -> list[nn.Module]:
        """Return the predictors of both networks."""
        rpn, heads = network.get_submodule("rpn.head"), network.get_submodule("roi_heads.box_predictor")
        names = ("cls_logits", "bbox_pred", "cls_score", "bbox_pred")
        return [part.get_submodule(name) for part, name in zip((rpn, rpn, heads, heads), names, strict=True)]
