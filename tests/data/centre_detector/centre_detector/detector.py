"""Objects as points: a map of class scores at the centres, and the distances from there to the four edges.

After Zhou et al., Objects as Points (arXiv:1904.07850) and Tian et al., FCOS (ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from paretune.core.types import Annotations, Detections, Floats, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import OWN, Detector, Losses

if TYPE_CHECKING:
    from torch import Tensor, nn

STRIDE = 4
"""Pixels of the input to a cell of the maps."""
MULTIPLE = 8
"""Both sides of the input are multiples of this: maps are halved three times and doubled once."""


class Centre(Detector):
    """Points with distances, by a network of group norms that enlarges its maps by a transposed convolution."""

    name: ClassVar[str] = "centre"
    usual_lr: ClassVar[float] = 4e-3
    distill_features: ClassVar[tuple[str, ...]] = ("trunk",)

    width: int = Field(default=32, ge=8, le=256, multiple_of=8)
    """Channels of the trunk."""
    sharpness: float = Field(default=2.0, ge=0, le=5)
    """Exponent by which cells that are right already lose weight in the loss of classes."""

    @property
    def preprocess(self) -> Preprocess:
        """Stretch, in BGR, brought to zero mean and unit variance."""
        return Preprocess(resize="stretch", order="bgr", mean=(0.41, 0.45, 0.48), std=(0.27, 0.26, 0.27))

    def size_unsupported_reason(self, size: InputSize) -> str | None:
        """Return why the maps could not be halved so often."""
        if size.width % MULTIPLE or size.height % MULTIPLE or min(size.width, size.height) < 4 * MULTIPLE:
            return f"{size}: both sides must be multiples of {MULTIPLE}, and at least {4 * MULTIPLE}"
        return None

    def build(self, num_classes: int) -> nn.Module:
        """Build the network with fresh weights."""
        from centre_detector.network import Network

        return Network(self.width, num_classes)

    def raw_names(self) -> tuple[str, ...]:
        """Return the names of both maps: (B, C, h, w) logits, (B, 4, h, w) logarithms of distances in cells."""
        return ("scores", "distances")

    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        """Turn the best cells into boxes, the weaker of two overlapping ones of a class left out."""
        limits = np.array([size.width, size.height] * 2, np.float32)
        return [_decoded(scores, distances, limits, thresholds) for scores, distances in zip(*raw, strict=True)]

    def loss(
        self, raw: Sequence[Tensor], annotations: Sequence[Annotations], size: InputSize, losses: Losses = OWN
    ) -> dict[str, Tensor]:
        """Return a focal loss of the scores and an IoU loss of the boxes, for each object."""
        from centre_detector.loss import centre_loss

        return centre_loss(raw[0], raw[1], annotations, self.sharpness)

    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return the network: it ends at its predictors."""
        return network

    def protected(self, network: Any) -> list[nn.Module]:
        """Return both predictors."""
        return [network.scores, network.distances]


def _decoded(scores: Floats, distances: Floats, limits: Floats, thresholds: Thresholds) -> Detections:
    sure = 1 / (1 + np.exp(-scores.reshape(-1).astype(np.float64)))
    order = np.argsort(-sure, kind="stable")[: thresholds.candidates]
    order = order[sure[order] >= thresholds.score]
    labels, cells = np.divmod(order, distances[0].size)
    rows, columns = np.divmod(cells, distances.shape[2])
    centres = np.stack([columns, rows, columns, rows], 1) + 0.5
    sides = np.exp(np.clip(distances.reshape(4, -1)[:, cells].T, -8, 8)) * np.array([-1, -1, 1, 1])
    boxes = np.clip((centres + sides) * STRIDE, 0, limits).astype(np.float32)
    kept: list[int] = []
    for index in range(len(boxes)):
        if len(kept) == thresholds.detections:
            break
        rivals = [other for other in kept if labels[other] == labels[index]]
        if not rivals or _overlaps(boxes[index], boxes[rivals]).max() <= thresholds.iou:
            kept.append(index)
    return Detections(boxes[kept].reshape(-1, 4), sure[order][kept].astype(np.float32), labels[kept].astype(np.int64))


def _overlaps(box: Floats, others: Floats) -> Floats:
    """Return intersection over union of a box with others (N, 4)."""
    corners = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.clip(corners[1] - corners[0], 0, None), axis=1)
    areas = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.asarray(shared / np.maximum(areas - shared, 1e-6), np.float32)
