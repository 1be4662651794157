"""Losses that several families share: how far a box is off, and how wrong a class.

IoU and its relatives: Yu et al., UnitBox (arXiv:1608.01471); Rezatofighi et al., GIoU (arXiv:1902.09630);
Zheng et al., DIoU and CIoU (arXiv:1911.08287). Smooth L1: Girshick, Fast R-CNN (arXiv:1504.08083). Focal:
Lin et al. (arXiv:1708.02002).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss, sigmoid_focal_loss

from paretune.detectors.base import BoxLoss, ClassLoss

_OVERLAPS = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


def box_loss(kind: BoxLoss, boxes: Tensor, wanted: Tensor) -> Tensor:
    """Return (P,), how far boxes (P, 4) are from the wanted ones (P, 4), both x1 y1 x2 y2.

    Raises:
        ValueError: the kind compares offsets, not corners (``smooth_l1``).
    """
    if kind == "iou":
        return 1 - aligned_iou(boxes, wanted)
    if kind not in _OVERLAPS:
        raise ValueError(f"{kind} is no loss between corners of boxes")
    return torch.as_tensor(_OVERLAPS[kind](boxes, wanted, reduction="none"))


def class_loss(kind: ClassLoss, logits: Tensor, wanted: Tensor) -> Tensor:
    """Return (P,), how wrong logits (P, C) are.

    Args:
        kind: ``bce`` and ``focal`` see C questions of their own, ``cross_entropy`` one with C answers.
        logits: (P, C).
        wanted: (P, C) certainties in [0, 1].
    """
    if kind == "cross_entropy":
        return F.cross_entropy(logits, wanted, reduction="none")
    if kind == "focal":
        terms = torch.as_tensor(sigmoid_focal_loss(logits, wanted, FOCAL_ALPHA, FOCAL_GAMMA))
    else:
        terms = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return terms.sum(-1)


def aligned_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (P,), the intersection over union of boxes (P, 4) with others (P, 4), pair by pair."""
    low, high = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, others)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-9)
