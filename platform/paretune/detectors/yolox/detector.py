"""YOLOX, as a detector: anchor-free, a decoupled head at strides 8, 16 and 32 (arXiv:2107.08430)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from paretune.core.errors import did_you_mean
from paretune.core.fields import Field, model_validator
from paretune.core.types import Annotations, Detections, Floats, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import OWN, BoxLoss, ClassLoss, Compared, Detector, InitialNetwork, Losses
from paretune.detectors.weight_names import CHECKPOINTS, is_checkpoint, is_url, missing_file

if TYPE_CHECKING:
    from torch import Tensor, nn

_STRIDES = (8, 16, 32)
_SMALLEST = 32


class _Shape(NamedTuple):
    depth: float
    width: float
    depthwise: bool


_VARIANTS = {
    "nano": _Shape(0.33, 0.25, True),
    "tiny": _Shape(0.33, 0.375, False),
    "s": _Shape(0.33, 0.5, False),
    "m": _Shape(0.67, 0.75, False),
    "l": _Shape(1.0, 1.0, False),
    "x": _Shape(1.33, 1.25, False),
}
_OFFICIAL = "COCO"
_RELEASE = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/yolox_{}.pth"
_HASHES = {"nano": "cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b"}
"""SHA-256 of the release's files, as far as it is known; of the others the hash of what was fetched is recorded."""


class Yolo(Detector):
    """YOLOX; parameters have the names and shapes of the official checkpoints."""

    name: ClassVar[str] = "yolo"
    teacher_sees_own_size: ClassVar[bool] = True
    usual_lr: ClassVar[float] = 4e-3
    leaves_out_ignored: ClassVar[bool] = True
    box_losses: ClassVar[tuple[BoxLoss, ...]] = ("iou", "giou", "diou", "ciou")
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ("bce", "focal")
    classes_compared: ClassVar[Compared | None] = "certainties"

    variant: Literal["nano", "tiny", "s", "m", "l", "x"] = "nano"
    """Size of the network: 0.9, 5.1, 9.0, 25.3, 54.2 or 99.1 million parameters."""
    depth: float | None = Field(default=None, gt=0, le=4)
    """Layers, in place of the variant's (0.33 for the three smallest)."""
    width: float | None = Field(default=None, ge=0.0625, le=4)
    """Channels (64 x width in the first layer), in place of the variant's (0.25, 0.375, 0.5 for these)."""
    depthwise: bool | None = None
    """Separable 3x3 convolutions, in place of the variant's (nano: true): fewer parameters, but slower to
    train on a CPU than dense ones."""

    weights: str | None = None
    """Checkpoint to start from: COCO (the official one of the variant, release 0.1.1rc0), or the path or URL of one;
    predictors of other classes start afresh."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of that file: an address of your own needs it."""

    @model_validator(mode="after")
    def _check_weights(self) -> Yolo:
        weights = self.weights
        if weights is None:
            return self
        if weights != _OFFICIAL and not is_checkpoint(weights):
            known = f"{_OFFICIAL}, a URL, or a file ({', '.join(CHECKPOINTS)})"
            raise ValueError(f"no such weights: {weights!r}{did_you_mean(weights, [_OFFICIAL])}; expected {known}")
        own = (self.depth, self.width, self.depthwise) == (None, None, None)
        if weights == _OFFICIAL and not own:
            raise ValueError("weights: COCO are for the variants as they are, without depth, width or depthwise")
        if self.sha256 is None and is_url(weights):
            raise ValueError(f"weights {weights}: give the file's hash too, as `sha256: …`")
        return self

    def problems(self) -> list[str]:
        """Return a line for a checkpoint that does not exist; one that has to be fetched is not looked for."""
        return missing_file(self.weights)

    @property
    def starts_trained(self) -> bool:
        """Return whether a checkpoint is named."""
        return self.weights is not None

    def begin(self, classes: Sequence[str] | int) -> InitialNetwork:
        """Build the network, with a checkpoint's weights if one is named."""
        network = self.build(classes if isinstance(classes, int) else len(classes))
        if self.weights is None:
            return InitialNetwork(network)
        from paretune.detectors.checkpoints import read_checkpoint
        from paretune.detectors.pretrained_weights import ClassRows, initial_network

        official = self.weights == _OFFICIAL
        source = _RELEASE.format(self.variant) if official else self.weights
        digest = self.sha256 or (_HASHES.get(self.variant) if official else None)
        rows = [ClassRows("head.cls_preds.")]
        return initial_network(network, read_checkpoint(source, digest), rows, self, classes, background=0)

    @property
    def preprocess(self) -> Preprocess:
        """Letterbox on grey, BGR, values 0 to 255 as they are."""
        return Preprocess(resize="letterbox", fill=114, order="bgr", scale=1.0)

    def size_unsupported_reason(self, size: InputSize) -> str | None:
        """Ask for even sides of at least one cell of the coarsest level."""
        if size.width % 2 or size.height % 2 or min(size.width, size.height) < _SMALLEST:
            return f"both sides must be even and at least {_SMALLEST} (multiples of 32 waste nothing)"
        return None

    def build(self, num_classes: int) -> nn.Module:
        """Build the network with torch's random state; forward gives nine maps, see ``raw_names``."""
        from paretune.detectors.yolox.network import YoloxNetwork

        shape = _VARIANTS[self.variant]
        return YoloxNetwork(
            depth=shape.depth if self.depth is None else self.depth,
            width=shape.width if self.width is None else self.width,
            depthwise=shape.depthwise if self.depthwise is None else self.depthwise,
            num_classes=num_classes,
        )

    def raw_names(self) -> tuple[str, ...]:
        """Return names per stride: box (B, 4, h, w), objectness logits (B, 1, h, w), class logits (B, C, h, w)."""
        return tuple(f"{kind}_{stride}" for stride in _STRIDES for kind in ("box", "objectness", "class"))

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:  # noqa: ARG002 the maps tell the size
        """Score = objectness x class; several classes may be found in one cell."""
        from paretune.detectors.yolox.decode import decode

        return decode(raw, _STRIDES, thresholds)

    def decoding(self, size: InputSize) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ARG002 the maps tell the size
        """Return the module that decodes, and the strides."""
        from paretune.detectors.yolox import decode as module

        return (module,), {"strides": list(_STRIDES)}

    def loss(
        self,
        raw: Sequence[Tensor],
        annotations: Sequence[Annotations],
        size: InputSize,  # noqa: ARG002 the maps tell the size
        losses: Losses = OWN,
    ) -> dict[str, Tensor]:
        """Return the terms ``box``, ``objectness`` and ``class``; YOLOX's own are 1 - IoU², BCE and BCE."""
        from paretune.detectors.yolox.loss import yolox_loss

        return yolox_loss(raw, _STRIDES, annotations, losses)

    def resized_outputs(
        self, answers: Sequence[Tensor], like: Sequence[Tensor], ratio: tuple[float, float]
    ) -> list[Tensor]:
        """Return a teacher's raw maps at the student's cells, boxes in the student's pixels."""
        from paretune.detectors.yolox.distillation import yolox_fitted

        return yolox_fitted(answers, like, ratio)

    def distillation_loss(
        self,
        shown: Mapping[str, Sequence[Tensor]],
        wanted: Mapping[str, Sequence[Tensor]],
        annotations: Sequence[Annotations],  # noqa: ARG002 the teacher's certainty takes their place
        size: InputSize,  # noqa: ARG002 the maps tell the size
        temperature: float,
    ) -> dict[str, Tensor]:
        """Return the terms ``box``, ``objectness`` and ``class``, weighted by the teacher's objectness."""
        from paretune.detectors.yolox.distillation import yolox_distillation_loss

        return yolox_distillation_loss(shown[""], wanted[""], _STRIDES, temperature)

    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return the network itself: its forward already ends at the predictor convolutions."""
        return network

    def protected(self, network: nn.Module) -> list[nn.Module]:
        """Return the three predictor convolutions of each level."""
        head = network.get_submodule("head")
        kinds = (head.get_submodule(kind) for kind in ("cls_preds", "reg_preds", "obj_preds"))
        return [convolution for kind in kinds for convolution in kind.children()]
