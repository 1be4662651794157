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

from paretune.detectors.losses import aligned_iou, binary_divergence
from paretune.detectors.yolox.loss import BOX_WEIGHT, predictions


def yolox_distillation_loss(
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


def yolox_fitted(answers: Sequence[Tensor], like: Sequence[Tensor], ratio: tuple[float, float]) -> list[Tensor]:
    """Return raw maps of images of one size as they would be of the same images in another: of the nearest cells.

    Args:
        answers: as ``yolox_loss`` takes them.
        like: of the other size, each level of the same stride.
        ratio: width and height of the other images as shares of those of ``answers``.
    """
    scale = answers[0].new_tensor(ratio).view(1, 2, 1, 1)
    levels = []
    for index, (maps, other) in enumerate(zip(answers, like, strict=True)):
        is_box = index % 3 == 0
        if is_box:
            maps = torch.cat([(maps[:, :2] + _cells(maps)) * scale, maps[:, 2:] + scale.log()], 1)  # noqa: PLW2901
        near = F.interpolate(maps, other.shape[2:], mode="nearest-exact")
        levels.append(torch.cat([near[:, :2] - _cells(near), near[:, 2:]], 1) if is_box else near)
    return levels


def _cells(plane: Tensor) -> Tensor:
    """Return column and row of every cell of a map, (1, 2, h, w)."""
    height, width = plane.shape[2:]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=plane.device), torch.arange(width, device=plane.device), indexing="ij"
    )
    return torch.stack((columns, rows))[None]
