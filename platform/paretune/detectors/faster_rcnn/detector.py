"""Faster R-CNN, as a detector: regions proposed by one network, classified by another.

Ren et al., NeurIPS 2015 (arXiv:1506.01497), with a feature pyramid (Lin et al., arXiv:1612.03144).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import numpy as np

from paretune.core.fields import Field, ValidationInfo, field_validator, model_validator
from paretune.core.types import Annotations, Detections, Floats, InputSize, Thresholds
from paretune.data.preprocess import IN_FLOAT, Preprocess, shown
from paretune.detectors.base import OWN, BoxLoss, ClassLoss, Compared, Detector, InitialNetwork, Losses
from paretune.detectors.weight_names import hash_problem, is_checkpoint, known_weights, missing_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.detectors.faster_rcnn.network import FasterRcnnNetwork as Network

WEIGHTS = ("COCO_V1",)
"""Names of torchvision's weights, which every variant has."""
_SMALLEST = 64
"""Side in pixels; below it the coarsest level is less than a cell."""
_OLDER = {"variant", "weights", "proposals", "least", "samples", "anchor", "head_width"}
"""All fields of a Paretune that knew no ``transform``, by their names then."""
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FasterRcnn(Detector):
    """Faster R-CNN on torchvision's networks; parameters have the names and shapes of its checkpoints."""

    name: ClassVar[str] = "faster_rcnn"
    renamed: ClassVar[Mapping[str, str]] = {"least": "min_proposal_score"}
    usual_lr: ClassVar[float] = 1e-3
    leaves_out_ignored: ClassVar[bool] = True
    box_losses: ClassVar[tuple[BoxLoss, ...]] = ("smooth_l1", "iou", "giou", "diou", "ciou")
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ("cross_entropy", "focal")
    boxes_compared: ClassVar[Compared | None] = "offsets"
    classes_compared: ClassVar[Compared | None] = "labels"
    part_names: ClassVar[tuple[str, ...]] = ("core", "box")
    distill_outputs: ClassVar[tuple[str, ...]] = ("rpn.head", "regions", "roi_heads.box_predictor")

    variant: Literal["mobilenet_v3_large_320_fpn", "mobilenet_v3_large_fpn", "resnet50_fpn", "resnet50_fpn_v2"] = (
        "mobilenet_v3_large_320_fpn"
    )
    """The network: 19 million parameters for small machines, or 41 to 44 million."""
    weights: str | None = None
    """Weights to start from: COCO_V1, torchvision's, or the path or URL of a checkpoint of torchvision's network, for
    any classes; the backbone's norms then keep their statistics."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file; a URL needs it."""
    transform: Literal["own", "torchvision"] = "own"
    """How a picture is brought to the input's size: own fills the input, and averages where it shrinks; torchvision
    does what torchvision's own transform does, as far as the input has room. Unless given, torchvision where there are
    weights."""
    min_size: int | None = Field(default=None, ge=32, le=4096)
    """Shorter side of pictures, for the torchvision transform; unless given the variant's own: 320 or 800."""
    max_size: int | None = Field(default=None, ge=32, le=8192)
    """Most that their longer side gets; unless given the variant's own: 640 or 1333."""
    norm_eps: float = Field(default=1e-5, ge=0, le=0.1)
    """Added to the variance in the backbone's norms; 0 is what torchvision has for resnet50_fpn with COCO_V1, and for
    what was trained on from it."""
    proposals: int = Field(default=100, ge=1, le=1000)
    """Regions of an image that the second network sees: fixed, so that latency is. torchvision's own are 150 for
    mobilenet_v3_large_320_fpn, 1000 for the others."""
    min_proposal_score: float = Field(default=0.05, ge=0, lt=1)
    """Score below which a region is none; torchvision's own is 0 for the ResNets."""
    samples: int = Field(default=512, ge=8, le=2048)
    """Regions of an image that the second network is trained on, a quarter of them on objects."""
    anchor: float = Field(default=32, ge=4, le=512)
    """Side in pixels of the smallest anchors, of the network's input; the others are 2, 4, 8 and 16 times as large."""
    head_width: int | None = Field(default=None, ge=16, le=4096)
    """Outputs of the two layers of the MobileNets' second network; torchvision's are 1024."""

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: str | None, info: ValidationInfo) -> str | None:
        model = f"fasterrcnn_{info.data.get('variant', '')}"
        return None if weights is None else known_weights(weights, model, WEIGHTS)

    @model_validator(mode="before")
    @classmethod
    def _as_torchvision(cls, told: Any) -> Any:
        """Show what the weights were trained on; a record of all fields but the new ones is of an older Paretune."""
        if not isinstance(told, Mapping) or told.get("weights") is None or set(told) == _OLDER:
            return told
        values = {"transform": "torchvision", **told}
        if (told["weights"], told.get("variant")) == ("COCO_V1", "resnet50_fpn"):
            values = {"norm_eps": 0.0, **values}
        return values

    @model_validator(mode="after")
    def _check_fields(self) -> FasterRcnn:
        if self.head_width is not None and not self._mobile:
            raise ValueError("head_width is for the MobileNets only")
        if self.head_width is not None and self.weights is not None and not is_checkpoint(self.weights):
            raise ValueError("weights are for torchvision's own head_width only")
        if problem := hash_problem(self.weights, self.sha256):
            raise ValueError(problem)
        if self.transform == "own" and (self.min_size, self.max_size) != (None, None):
            raise ValueError("min_size and max_size are for `transform: torchvision` only")
        if self._sides[0] > self._sides[1]:
            raise ValueError("min_size {} is above max_size {}".format(*self._sides))
        return self

    @property
    def _sides(self) -> tuple[int, int]:
        """Shorter side of pictures, and most of the longer one, for torchvision's transform."""
        shorter, longer = (320, 640) if "_320_" in self.variant else (800, 1333)
        return self.min_size or shorter, self.max_size or longer

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
        """Letterbox, RGB, torchvision's mean and scale; the rest becomes 0, or a grey close to it."""
        if self.transform == "own":
            return Preprocess(resize="letterbox", fill=116, mean=_MEAN, std=_STD)
        shorter, longer = self._sides
        return Preprocess(
            resize="letterbox",
            fill="mean",
            mean=_MEAN,
            std=_STD,
            shrinking=IN_FLOAT,
            shortest=shorter,
            longest=longer,
        )

    def size_unsupported_reason(self, size: InputSize) -> str | None:
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
        from paretune.detectors.faster_rcnn.network import build

        return build(
            self.variant,
            num_classes,
            self._sizes,
            self._regions,
            samples=self.samples,
            frozen=self.weights is not None,
            head_width=self.head_width,
            norm_eps=self.norm_eps,
        )

    @property
    def starts_trained(self) -> bool:
        """Return whether weights are named."""
        return self.weights is not None

    def problems(self) -> list[str]:
        """Return a line for a checkpoint that does not exist; one that has to be fetched is not looked for."""
        return missing_file(self.weights)

    def begin(self, classes: Sequence[str] | int) -> InitialNetwork:
        """Build the network with the weights that are named."""
        network = self.build(classes if isinstance(classes, int) else len(classes))
        if self.weights is None:
            return InitialNetwork(network)
        from paretune.detectors.pretrained_weights import ClassRows, checkpoint_of, initial_network

        checkpoint = checkpoint_of(self.weights, self.sha256, f"fasterrcnn_{self.variant}")
        state, notes, own = checkpoint.state, checkpoint.notes, network.state_dict()
        count = "num_batches_tracked"
        uncounted = [n for n in own if n.endswith(count) and n not in state and n.replace(count, "weight") in state]
        if uncounted and self.variant == "resnet50_fpn" and is_checkpoint(self.weights):
            note = (
                f"{checkpoint.what}: its norms were frozen; torchvision computes with norm_eps: 0 in what was trained"
            )
            notes = (*notes, f"{note} on from COCO_V1, else with 1e-05; here it is {self.norm_eps:g}")
        state = {**state, **{name: own[name] for name in uncounted}}  # torchvision's frozen norms count no batches
        rows = [
            ClassRows("roi_heads.box_predictor.cls_score."),
            ClassRows("roi_heads.box_predictor.bbox_pred.", values=4),
        ]
        return initial_network(network, replace(checkpoint, state=state, notes=notes), rows, self, classes)

    def suited(self, smallest: float, largest: float, size: InputSize) -> dict[str, tuple[Any, str]]:  # noqa: ARG002 five sizes follow
        """Return the side of the smallest anchors; weights were trained with theirs, and pictures fill the input."""
        if self.weights is not None:
            if self.transform == "own" or (self.min_size, self.max_size) != (None, None):
                return {}
            sides = {"min_size": min(size.width, size.height), "max_size": max(size.width, size.height)}
            return {field: (side, "pictures fill the input") for field, side in sides.items()}
        side = smallest * (size.width * size.height) ** 0.5
        anchor = float(min(max(2 ** round(np.log2(max(side, 1))), 8), 64))
        return {"anchor": (anchor, f"a small object is {side:.0f} pixels wide in the input")}

    def raw_names(self) -> tuple[str, ...]:
        """Name them.

        Regions (B, R, 4), zero where there is none; class logits (B, R, C + 1); offsets (B, R, 4·(C + 1)); width and
        height (B, 2) of the pictures in the input.
        """
        return ("regions", "class", "box", "shown")

    def part_outputs(self, part: str) -> tuple[str, ...]:
        """Return the names of maps, objectness and offsets of every level, or of the regions' logits and offsets."""
        if part == "box":
            return ("class", "box")
        maps = tuple(f"map_{level}" for level in range(self._levels - 1))
        return (*maps, *(f"{kind}_{level}" for kind in ("objectness", "offset") for level in range(self._levels)))

    def part_modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return both networks."""
        from paretune.detectors.faster_rcnn.network import BoxNetwork, RegionNetwork

        return {"core": RegionNetwork(cast("Network", network)), "box": BoxNetwork(cast("Network", network))}

    def run(
        self, parts: Mapping[str, Callable[[Floats], Sequence[Floats]]], batch: Floats, size: InputSize
    ) -> tuple[Floats, ...]:
        """Run the first network, then RoIAlign and the second network for each image of the batch by itself."""
        from paretune.detectors.faster_rcnn.decode import pooled

        maps = parts["core"](batch)
        seen = shown(batch)
        regions = self._regions(maps, size, seen)
        levels = maps[: self._levels - 1]
        detections = [
            parts["box"](pooled([plane[image] for plane in levels], regions[image], size))
            for image in range(len(batch))
        ]
        return (regions, *(np.stack(entries) for entries in zip(*detections, strict=True)), seen)

    def decoding(self, size: InputSize) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ARG002 the maps tell the size
        """Return what computes between and after the networks, with the sides of anchors and the proposals."""
        from paretune.detectors.faster_rcnn import decode as module

        told = {"sizes": self._sizes, "proposals": self.proposals, "least": self.min_proposal_score}
        return (shown, module), told

    def _regions(self, maps: Sequence[Floats], size: InputSize, seen: Floats) -> Floats:
        from paretune.detectors.faster_rcnn.decode import anchors, propose

        first = self._levels - 1
        objectness, offsets = maps[first : first + self._levels], maps[first + self._levels :]
        levels = anchors(tuple(plane.shape[2:] for plane in objectness), self._sizes, size)
        return propose(objectness, offsets, levels, self.proposals, self.min_proposal_score, seen)

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:  # noqa: ARG002 the maps tell the size
        """Score = softmax over the classes and the background."""
        from paretune.detectors.faster_rcnn.decode import decode

        return decode(raw, thresholds)

    def training_loss(
        self, forward: Callable[..., Any], images: Tensor, annotations: Sequence[Annotations], losses: Losses = OWN
    ) -> dict[str, Tensor]:
        """Return the terms ``objectness`` and ``region`` of the first network, ``class`` and ``box`` of the second."""
        terms: dict[str, Tensor] = forward(images, annotations, losses)
        return terms

    def run_teacher(self, teacher: nn.Module, images: Tensor, shown: Mapping[str, Sequence[Tensor]]) -> None:
        """Run the teacher's first network, and its second one on the student's regions."""
        cast("Network", teacher).judge(images, shown.get("regions"))

    def distillation_loss(
        self,
        shown: Mapping[str, Sequence[Tensor]],
        wanted: Mapping[str, Sequence[Tensor]],
        annotations: Sequence[Annotations],  # noqa: ARG002 the teacher's certainty takes their place
        size: InputSize,  # noqa: ARG002 offsets are compared, not boxes
        temperature: float,
    ) -> dict[str, Tensor]:
        """Return the terms ``objectness`` and ``region`` of the first network, ``class`` and ``box`` of the second."""
        from paretune.detectors.faster_rcnn.distillation import frcnn_classes, frcnn_regions

        first, _, second = self.distill_outputs
        return {
            **frcnn_regions(shown[first], wanted[first]),
            **frcnn_classes(shown[second], wanted[second], temperature),
        }

    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return both networks as one, with pooling in place of RoIAlign."""
        from paretune.detectors.faster_rcnn.network import PruneView

        return PruneView(cast("Network", network))

    def protected(self, network: nn.Module) -> list[nn.Module]:
        """Return the predictors of both networks."""
        rpn, heads = network.get_submodule("rpn.head"), network.get_submodule("roi_heads.box_predictor")
        names = ("cls_logits", "bbox_pred", "cls_score", "bbox_pred")
        return [part.get_submodule(name) for part, name in zip((rpn, rpn, heads, heads), names, strict=True)]
