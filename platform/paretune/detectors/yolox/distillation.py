"""How far a network's answers are from its teacher's, for each family: zero where they are equal.

Most cells and anchors see background, and would drown the rest: they count by the teacher's certainty that
there is an object, as in Mehta and Ozturk, "Object detection at 200 Frames Per Second", ECCV workshops 2018
(arXiv:1805.06361). Classes by soft targets: Hinton et al., arXiv:1503.02531. SSD's and Faster R-CNN's terms are
those of Chen et al., "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.core.types import Annotations
from paretune.detectors.losses import aligned_iou
from paretune.detectors.ssd.loss import assign, encoded, values
from paretune.detectors.yolox.loss import BOX_WEIGHT, predictions


def yolox_imitation(
    raw: Sequence[Tensor], wanted: Sequence[Tensor], strides: Sequence[int], temperature: float
) -> dict[str, Tensor]:
    """Return the terms ``box``, ``objectness`` and ``class``, each per object cell of the teacher.

    Args:
        raw: as ``yolox_loss`` takes them.
        wanted: the teacher's, of the same shapes.
        strides: pixels between the cells of each level.
        temperature: of the classes.
    """
    mine, teachers = predictions(raw, strides), predictions(wanted, strides)
    sure = teachers.objectness.sigmoid()  # (B, A)
    count = sure.sum().clamp(min=1)
    off = 1 - aligned_iou(mine.boxes.flatten(0, 1), teachers.boxes.flatten(0, 1)).square()
    classes = temperature**2 * binary_divergence(mine.classes / temperature, teachers.classes / temperature)
    return {
        "box": BOX_WEIGHT * (sure.flatten() * off).sum() / count,
        "objectness": binary_divergence(mine.objectness, teachers.objectness).sum() / count,
        "class": (sure * classes.sum(-1)).sum() / count,
    }


def ssd_imitation(
    raw: Sequence[Tensor],
    wanted: Sequence[Tensor],
    anchors: Tensor,
    boxes_per_cell: Sequence[int],
    annotations: Sequence[Annotations],
    temperature: float,
) -> dict[str, Tensor]:
    """Return the terms ``box`` and ``class``.

    A default box's class counts as much as the teacher, or the network itself, sees an object in it. Offsets
    are held to the annotations, and only where the teacher's are better: a teacher's box may be wrong.

    Args:
        raw: as ``ssd_loss`` takes them.
        wanted: the teacher's, of the same shapes.
        anchors: (N, 4) default boxes of all levels, in pixels.
        boxes_per_cell: K of each level.
        annotations: of the images, boxes in pixels of the input.
        temperature: of the classes.
    """
    (logits, offsets), (soft, good) = values(raw, boxes_per_cell), values(wanted, boxes_per_cell)
    sure = 1 - soft.softmax(-1)[..., 0]  # (B, N)
    seen = torch.maximum(sure, 1 - logits.detach().softmax(-1)[..., 0])
    classes, boxes = assign(anchors, annotations)
    objects = classes > 0
    right = encoded(boxes[objects], anchors.expand(len(annotations), -1, -1)[objects])
    mine, teachers = (F.smooth_l1_loss(o[objects], right, reduction="none").sum(-1) for o in (offsets, good))
    return {
        "box": (mine * (mine > teachers)).sum() / objects.sum().clamp(min=1),
        "class": (seen * divergence(logits, soft, temperature)).sum() / sure.sum().clamp(min=1),
    }


def yolox_fitted(answers: Sequence[Tensor], like: Sequence[Tensor], ratio: tuple[float, float]) -> list[Tensor]:
    """Return raw maps of images of one size as they would be of the same images in another: of the nearest cells.

    Args:
        answers: as ``yolox_loss`` takes them.
        like: of the other size, each level of the same stride.
        ratio: width and height of the other images as shares of those of ``answers``.
    """
    scale = answers[0].new_tensor(ratio).view(1, 2, 1, 1)
    found = []
    for index, (maps, other) in enumerate(zip(answers, like, strict=True)):
        is_box = index % 3 == 0
        if is_box:
            maps = torch.cat([(maps[:, :2] + _cells(maps)) * scale, maps[:, 2:] + scale.log()], 1)  # noqa: PLW2901
        near = F.interpolate(maps, other.shape[2:], mode="nearest-exact")
        found.append(torch.cat([near[:, :2] - _cells(near), near[:, 2:]], 1) if is_box else near)
    return found


def _cells(plane: Tensor) -> Tensor:
    """Return column and row of every cell of a map, (1, 2, h, w)."""
    height, width = plane.shape[2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=plane.device), torch.arange(width, device=plane.device), indexing="ij"
    )
    return torch.stack((columns, rows))[None]


def frcnn_regions(raw: Sequence[Tensor], wanted: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return the terms ``objectness`` and ``region`` of the first network, each per object anchor of the teacher.

    Args:
        raw: objectness of every level, logits (B, K, h, w), then offsets of every level, (B, 4·K, h, w).
        wanted: the teacher's, of the same shapes.
    """
    levels = len(raw) // 2
    logits, soft = (torch.cat([plane.float().flatten() for plane in maps[:levels]]) for maps in (raw, wanted))
    moved, good = (torch.cat([_by_anchor(plane.float()) for plane in maps[levels:]]) for maps in (raw, wanted))
    sure = soft.sigmoid()
    count = sure.sum().clamp(min=1)
    return {
        "objectness": binary_divergence(logits, soft).sum() / count,
        "region": (sure * F.smooth_l1_loss(moved, good, reduction="none").sum(-1)).sum() / count,
    }


def frcnn_classes(raw: Sequence[Tensor], wanted: Sequence[Tensor], temperature: float) -> dict[str, Tensor]:
    """Return the terms ``class`` and ``box`` of the second network, each per region.

    Args:
        raw: class logits (R, C + 1), background first, and offsets (R, 4·(C + 1)).
        wanted: the teacher's, of the same regions.
        temperature: of the classes.
    """
    (logits, moved), (soft, good) = ([plane.float() for plane in maps] for maps in (raw, wanted))
    sure = soft.softmax(-1)[:, 1:]
    off = F.smooth_l1_loss(moved, good, reduction="none").view(len(soft), -1, 4).sum(-1)[:, 1:]
    return {"class": divergence(logits, soft, temperature).mean(), "box": (sure * off).sum() / max(len(soft), 1)}


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


def _by_anchor(offsets: Tensor) -> Tensor:
    """(B, 4·K, h, w) → (B·K·h·w, 4), in the order of the flattened objectness (B, K, h, w)."""
    batch, channels, height, width = offsets.shape
    return offsets.reshape(batch, channels // 4, 4, height, width).permute(0, 1, 3, 4, 2).reshape(-1, 4)
