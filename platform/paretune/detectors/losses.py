"""Losses that several families share: how far a box is off, and how wrong a class.

IoU and its relatives: Yu et al., UnitBox (arXiv:1608.01471); Rezatofighi et al., GIoU (arXiv:1902.09630);
Zheng et al., DIoU and CIoU (arXiv:1911.08287). Smooth L1: Girshick, Fast R-CNN (arXiv:1504.08083). Focal:
Lin et al. (arXiv:1708.02002).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss, sigmoid_focal_loss

from paretune.core.errors import did_you_mean, one_line
from paretune.core.types import Annotations

_OVERLAPS = {"giou": generalized_box_iou_loss, "diou": distance_box_iou_loss, "ciou": complete_box_iou_loss}
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0
IGNORED_OVERLAP = 0.5
"""Share of a box's area that lies on an entry to ignore, from which on the box is not taught to be background."""


def box_loss(kind: str, boxes: Tensor, wanted: Tensor) -> Tensor:
    """Return (P,), how far boxes (P, 4) are from the wanted ones (P, 4), both x1 y1 x2 y2.

    Raises:
        ValueError: the kind compares offsets, not corners (``smooth_l1``).
    """
    if kind == "iou":
        return 1 - aligned_iou(boxes, wanted)
    if kind not in _OVERLAPS:
        raise ValueError(f"{kind} is no loss between corners of boxes")
    return torch.as_tensor(_OVERLAPS[kind](boxes, wanted, reduction="none"))


def is_torchs(kind: str | None) -> bool:
    """Return whether a loss is named like a class of torch.nn."""
    return kind is not None and kind[:1].isupper()


@cache
def torch_loss(kind: str) -> nn.Module:
    """Return a loss of torch.nn that gives every value by itself."""
    made: nn.Module = getattr(nn, kind)(reduction="none")
    return made


def loss_unsupported_reason(kind: str, compared: str) -> str | None:
    """Return why a class of torch.nn is no loss that a detector can be trained with, in one line, or None.

    It is tried: its values must be finite and at least 0, and smallest for what is right and surest of it.
    """
    loss = getattr(nn, kind, None)
    if not isinstance(loss, type) or not kind.endswith("Loss"):
        known = [name for name in dir(nn) if name.endswith("Loss")]
        return f"no such loss in torch.nn: {kind!r}{did_you_mean(kind, known)}"
    labels = torch.tensor([0, 2, 1])
    sure = F.one_hot(labels, 4).float()
    wanted = {"offsets": torch.tensor([[-1.0, 0.5, 0.0, 2.0]]), "labels": labels, "certainties": sure}[compared]
    guesses = [wanted, wanted + 1, wanted - 2] if compared == "offsets" else [s * (2 * sure - 1) for s in (9, 0.1, -2)]
    shapes = {wanted.shape} if compared == "offsets" else {labels.shape, wanted.shape}
    try:
        with warnings.catch_warnings():  # of shapes that do not fit: seen below
            warnings.simplefilter("ignore")
            values = [torch_loss(kind)(guess.clone().requires_grad_(), wanted) for guess in guesses]
        if values[0].shape not in shapes or not values[1].requires_grad:
            return f"torch.nn.{kind} gives no loss of each of the {compared}"
        right, near, far = (value.detach() for value in values)
    except Exception as error:  # noqa: BLE001 - a class of torch.nn may raise anything
        return f"torch.nn.{kind} cannot compare {compared}: {one_line(error)}"
    if not bool(((right >= 0) & (right < near) & (near < far)).all()):
        return f"torch.nn.{kind} is not smallest, and at least 0, where {compared} are right"
    return None


def label_loss(kind: str | None, logits: Tensor, labels: Tensor) -> Tensor:
    """Return (P,), how wrong logits (P, C) are for labels (P,): cross-entropy, or a loss of torch.nn."""
    if kind is not None and is_torchs(kind):
        return torch.as_tensor(torch_loss(kind)(logits, labels))
    return F.cross_entropy(logits, labels, reduction="none")


def class_loss(kind: str, logits: Tensor, wanted: Tensor) -> Tensor:
    """Return (P,), how wrong logits (P, C) are.

    Args:
        kind: ``bce`` and ``focal`` see C questions of their own, ``cross_entropy`` one with C answers; or a loss of
            torch.nn.
        logits: (P, C).
        wanted: (P, C) certainties in [0, 1].
    """
    if kind == "cross_entropy":
        return F.cross_entropy(logits, wanted, reduction="none")
    if is_torchs(kind):
        terms = torch.as_tensor(torch_loss(kind)(logits, wanted))
        return terms if terms.ndim == 1 else terms.sum(-1)
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


def trained_on(annotations: Sequence[Annotations]) -> list[Annotations]:
    """Return the annotations without entries to ignore."""
    return [Annotations(a.boxes[~a.ignore], a.labels[~a.ignore], a.ignore[~a.ignore]) for a in annotations]


@torch.no_grad()
def on_ignored(boxes: Tensor, truth: Annotations) -> Tensor:
    """Return (N,), which boxes (N, 4) lie on an entry to ignore with at least half of their area.

    The overlap is the intersection over the box's own area, because a crowd is larger than what it consists of, as in
    MMDetection's MaxIoUAssigner (``ignore_wrt_candidates``; Chen et al., arXiv:1906.07155).
    """
    ignored = torch.from_numpy(truth.boxes[truth.ignore]).to(boxes)
    low = torch.maximum(boxes[:, None, :2], ignored[:, :2])
    high = torch.minimum(boxes[:, None, 2:], ignored[:, 2:])
    common, areas = (high - low).clamp(min=0).prod(-1), (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return (common >= IGNORED_OVERLAP * areas.clamp(min=1e-9)[:, None]).any(1)


def binary_divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return, for each yes-or-no answer, the Kullback-Leibler divergence from the wanted one; both are logits."""
    soft = wanted.sigmoid()
    least = F.binary_cross_entropy_with_logits(wanted, soft, reduction="none")
    return F.binary_cross_entropy_with_logits(logits, soft, reduction="none") - least


def divergence(logits: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return (...) the Kullback-Leibler divergence of softened classes (..., C), times the temperature squared.

    The square keeps the gradient as large as without softening.
    """
    mine, soft = (F.log_softmax(answers / temperature, -1) for answers in (logits, wanted))
    return temperature**2 * F.kl_div(mine, soft, reduction="none", log_target=True).sum(-1)
