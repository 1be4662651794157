"""SSD, as a detector: default boxes at six scales, one pass. Liu et al., ECCV 2016 (arXiv:1512.02325)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from paretune.core.fields import Field, ValidationInfo, field_validator, model_validator
from paretune.core.types import Annotations, Detections, Floats, InputSize, Thresholds
from paretune.data.preprocess import IN_FLOAT, SHRINKING, Preprocess
from paretune.detectors.base import OWN, BoxLoss, ClassLoss, Compared, Detector, InitialNetwork, Losses
from paretune.detectors.ssd.default_boxes import Ratios, boxes_per_cell, default_boxes, even_scales
from paretune.detectors.weight_names import hash_problem, is_checkpoint, known_weights, missing_file

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.detectors.ssd.network import SsdNetwork

WEIGHTS = {
    "ssd300_vgg16": ("COCO_V1", "IMAGENET1K_FEATURES"),
    "ssdlite320_mobilenet_v3_large": ("COCO_V1", "IMAGENET1K_V1", "IMAGENET1K_V2"),
}
"""Variant → torchvision's names of weights for the whole network, and of those for its backbone."""
LEVELS = 6
_LITE_RATIOS: Ratios = ((2, 3),) * LEVELS
_VGG_RATIOS: Ratios = ((2,), (2, 3), (2, 3), (2, 3), (2,), (2,))
_VGG_SCALES = (0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05)
_VGG_STRIDES = (8, 16, 32, 64, 100, 300)
_LITE_SMALLEST, _VGG_SMALLEST = 32, 268
"""Sides in pixels; below 268 nothing is left for VGG's last convolutions, which are not padded."""
_BACKBONE = "IMAGENET"
"""How the names of weights for the backbone alone begin."""
_OLDER = {"variant", "weights", "width", "smallest", "largest"}
"""All fields of a Paretune that knew no ``transform``."""
_TAIL = "backbone.features.1."
"""Beginning of the names in ssdlite's last stage, which torchvision makes narrower where no classifier comes first."""


class Ssd(Detector):
    """SSD on torchvision's networks; parameters have the names and shapes of its checkpoints."""

    name: ClassVar[str] = "ssd"
    usual_lr: ClassVar[float] = 3e-3
    leaves_out_ignored: ClassVar[bool] = True
    box_losses: ClassVar[tuple[BoxLoss, ...]] = ("smooth_l1", "iou", "giou", "diou", "ciou")
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ("cross_entropy", "focal")
    boxes_compared: ClassVar[Compared | None] = "offsets"
    classes_compared: ClassVar[Compared | None] = "labels"

    variant: Literal["ssdlite320_mobilenet_v3_large", "ssd300_vgg16"] = "ssdlite320_mobilenet_v3_large"
    """The network: 3.4 million parameters for small machines, or 35.6 million."""
    weights: str | None = None
    """Weights to start from: torchvision's by their name (COCO_V1, or of the backbone alone), or the path or URL of a
    checkpoint of torchvision's network, for any classes."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file; a URL needs it."""
    transform: Literal["own", "torchvision"] = "own"
    """How a picture is brought to the input's size: own averages where it shrinks, torchvision does what torchvision's
    own transform does. Unless given, torchvision where weights are of the whole network."""
    width: float = Field(default=1.0, ge=0.1, le=2)
    """Channels of ssdlite's backbone, as a multiple."""
    smallest: float = Field(default=0.2, gt=0, lt=1)
    """Side of ssdlite's smallest default boxes, in shares of the image; small objects want about 0.07."""
    largest: float = Field(default=0.95, gt=0, le=1)
    """Side of ssdlite's largest ones."""

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, weights: str | None, info: ValidationInfo) -> str | None:
        variant = info.data.get("variant", "")
        return None if weights is None else known_weights(weights, variant, WEIGHTS.get(variant, ()))

    @model_validator(mode="before")
    @classmethod
    def _as_torchvision(cls, told: Any) -> Any:
        """Show what the weights were trained on; a record of all fields but the new ones is of an older Paretune."""
        if not isinstance(told, Mapping) or "transform" in told or set(told) == _OLDER:
            return told
        weights = told.get("weights")
        if isinstance(weights, str) and not weights.startswith(_BACKBONE):
            return {**told, "transform": "torchvision"}
        return told

    @model_validator(mode="after")
    def _check_fields(self) -> Ssd:
        if self.smallest >= self.largest:
            raise ValueError(f"smallest {self.smallest:g} must be below largest {self.largest:g}")
        if not self._lite and (self.width, self.smallest, self.largest) != (1.0, 0.2, 0.95):
            raise ValueError("width, smallest and largest are for ssdlite320_mobilenet_v3_large only")
        if self.weights is not None and not is_checkpoint(self.weights) and self.width != 1:
            raise ValueError("weights are for width 1 only")
        if problem := hash_problem(self.weights, self.sha256):
            raise ValueError(problem)
        return self

    @property
    def _lite(self) -> bool:
        return self.variant.startswith("ssdlite")

    @property
    def _ratios(self) -> Ratios:
        return _LITE_RATIOS if self._lite else _VGG_RATIOS

    @property
    def preprocess(self) -> Preprocess:
        """Stretch, RGB, torchvision's mean and scale."""
        mean, std = (0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)
        if self._lite:
            mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
        shrinking = IN_FLOAT if self.transform == "torchvision" else SHRINKING
        return Preprocess(resize="stretch", mean=mean, std=std, shrinking=shrinking)

    def size_unsupported_reason(self, size: InputSize) -> str | None:
        """Ask for sides that leave something for the last convolutions."""
        smallest = _LITE_SMALLEST if self._lite else _VGG_SMALLEST
        if min(size.width, size.height) < smallest:
            return f"both sides must be at least {smallest} for {self.variant}"
        return None

    def build(self, num_classes: int) -> nn.Module:
        """Build the network with torch's random state; forward gives twelve maps, see ``raw_names``."""
        return self._built(num_classes, None, reduced_tail=not self._of_classifier)

    def _built(self, num_classes: int, classifier: dict[str, Tensor] | None, *, reduced_tail: bool) -> nn.Module:
        from paretune.detectors.ssd import network as ssd_network

        boxes = boxes_per_cell(self._ratios)
        if not self._lite:
            return ssd_network.ssd300(num_classes, boxes, classifier=classifier)
        return ssd_network.ssdlite(num_classes, boxes, self.width, reduced_tail=reduced_tail, classifier=classifier)

    @property
    def _of_classifier(self) -> bool:
        return self.weights is not None and self.weights.startswith(_BACKBONE)

    @property
    def starts_trained(self) -> bool:
        """Return whether weights of the whole network are named."""
        return self.weights is not None and not self._of_classifier

    @property
    def trained_size(self) -> InputSize | None:
        """Return torchvision's own, where weights of the whole network are named."""
        return InputSize.parse(320 if self._lite else 300) if self.starts_trained else None

    def problems(self) -> list[str]:
        """Return a line for a checkpoint that does not exist; one that has to be fetched is not looked for."""
        return missing_file(self.weights)

    def begin(self, classes: Sequence[str] | int) -> InitialNetwork:
        """Build the network with the weights that are named."""
        count = classes if isinstance(classes, int) else len(classes)
        if self.weights is None:
            return InitialNetwork(self.build(count))
        from paretune.detectors import pretrained_weights as pretrained

        if self._of_classifier:
            state = pretrained.torchvision_weights("mobilenet_v3_large" if self._lite else "vgg16", self.weights)
            return InitialNetwork(self._built(count, state, reduced_tail=False))
        given = pretrained.checkpoint_of(self.weights, self.sha256, self.variant)
        network = self._built(count, None, reduced_tail=True)
        if self._lite and pretrained.shapes_differ(network, given, _TAIL):  # with the backbone of a classifier
            network = self._built(count, None, reduced_tail=False)
        ends = ".1" if self._lite else ""
        rows = [
            pretrained.ClassRows(f"head.classification_head.module_list.{level}{ends}.", groups=boxes)
            for level, boxes in enumerate(boxes_per_cell(self._ratios))
        ]
        return pretrained.initial_network(network, given, rows, self, classes)

    def suited(self, smallest: float, largest: float, size: InputSize) -> dict[str, tuple[Any, str]]:  # noqa: ARG002 shares
        """Return the sides of ssdlite's default boxes; weights of a detector were trained with theirs."""
        if not self._lite or (self.weights is not None and not self._of_classifier):
            return {}
        low, high = min(max(smallest, 0.04), 0.3), min(max(largest * 1.1, 0.6), 0.95)
        return {
            "smallest": (round(low, 3), "a small object's side, as a share of the image's"),
            "largest": (round(high, 3), "a tenth beyond a large object's side"),
        }

    def raw_names(self) -> tuple[str, ...]:
        """Return names per level: class logits (B, K·(C + 1), h, w), background first; offsets (B, K·4, h, w)."""
        return tuple(f"{kind}_{level}" for level in range(LEVELS) for kind in ("class", "box"))

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        """Score = softmax over the classes and the background."""
        from paretune.detectors.ssd.decode import decode

        anchors = self.anchors([maps.shape[2:] for maps in raw[::2]], size)
        return decode(raw, anchors, boxes_per_cell(self._ratios), size, thresholds)

    def loss(
        self, raw: Sequence[Tensor], annotations: Sequence[Annotations], size: InputSize, losses: Losses = OWN
    ) -> dict[str, Tensor]:
        """Return the terms ``box`` and ``class``."""
        from paretune.detectors.ssd.loss import ssd_loss

        return ssd_loss(raw, self._anchors_of(raw, size), boxes_per_cell(self._ratios), annotations, losses)

    def distillation_loss(
        self,
        shown: Mapping[str, Sequence[Tensor]],
        wanted: Mapping[str, Sequence[Tensor]],
        annotations: Sequence[Annotations],
        size: InputSize,
        temperature: float,
    ) -> dict[str, Tensor]:
        """Return the terms ``box``, bounded by the teacher's error, and ``class``, softened."""
        from paretune.detectors.ssd.distillation import ssd_distillation_loss

        raw, anchors = shown[""], self._anchors_of(shown[""], size)
        return ssd_distillation_loss(raw, wanted[""], anchors, boxes_per_cell(self._ratios), annotations, temperature)

    def _anchors_of(self, raw: Sequence[Tensor], size: InputSize) -> Tensor:
        """Return the default boxes of raw maps, on their device."""
        import torch

        return torch.tensor(self.anchors([maps.shape[2:] for maps in raw[::2]], size), device=raw[0].device)

    def anchors(self, shapes: Sequence[Sequence[int]], size: InputSize) -> Floats:
        """Return the default boxes (N, 4) in pixels of an input, for levels of these (rows, columns)."""
        levels = tuple((rows, columns) for rows, columns in shapes)
        return default_boxes(levels, self._ratios, self._scales, (size.width, size.height), self._strides(size))

    @property
    def _scales(self) -> tuple[float, ...]:
        return even_scales(LEVELS, self.smallest, self.largest) if self._lite else _VGG_SCALES

    def _strides(self, size: InputSize) -> tuple[int, ...] | None:
        own_size = (size.width, size.height) == (300, 300) and not self._lite
        return _VGG_STRIDES if own_size else None

    def decoding(self, size: InputSize) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the modules of default boxes and decoding, and what the default boxes are computed from."""
        from paretune.detectors.ssd import decode, default_boxes

        told = {"ratios": self._ratios, "scales": self._scales, "strides": self._strides(size)}
        return (default_boxes, decode), told

    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return the network itself: its forward already ends at the predictor convolutions."""
        return network

    def lone_parameters(self, network: nn.Module) -> list[tuple[nn.Parameter, int]]:
        """Return the scales of VGG's first level, which belong to no layer."""
        scale = getattr(network.get_submodule("backbone"), "scale_weight", None)
        return [] if scale is None else [(scale, 0)]

    def protected(self, network: nn.Module) -> list[nn.Module]:
        """Return the predictor convolutions of each level."""
        both = cast("SsdNetwork", network).predictors()
        return [predictor[-1] if self._lite else predictor for predictors in both for predictor in predictors]
