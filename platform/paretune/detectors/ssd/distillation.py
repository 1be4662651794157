"""Distillation of SSD: offsets and labels of the boxes that a teacher and a student share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.core.types import Annotations
from paretune.detectors.losses import divergence
from paretune.detectors.ssd.loss import assign, class_and_box_maps, encode


def ssd_distillation_loss(
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
    (logits, offsets), (soft, good) = (class_and_box_maps(maps, boxes_per_cell) for maps in (raw, wanted))
    sure = 1 - soft.softmax(-1)[..., 0]  # (B, N)
    seen = torch.maximum(sure, 1 - logits.detach().softmax(-1)[..., 0])
    classes, boxes = assign(anchors, annotations)
    objects = classes > 0
    right = encode(boxes[objects], anchors.expand(len(annotations), -1, -1)[objects])
    mine, teachers = (F.smooth_l1_loss(o[objects], right, reduction="none").sum(-1) for o in (offsets, good))
    return {
        "box": (mine * (mine > teachers)).sum() / objects.sum().clamp(min=1),
        "class": (seen * divergence(logits, soft, temperature)).sum() / sure.sum().clamp(min=1),
    }
