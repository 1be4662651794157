"""SSD's training loss. Liu et al., SSD, ECCV 2016 (arXiv:1512.02325), section 2.2.

Every default box that overlaps an object enough, and the best one of every object, is responsible for
it; of the others only the hardest count, three to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from paretune.core.types import Annotations
from paretune.detectors.base import OWN, Losses
from paretune.detectors.losses import FOCAL_GAMMA, box_loss, is_torchs, label_loss, on_ignored, torch_loss, trained_on
from paretune.detectors.ssd.default_boxes import CENTRE_WEIGHT, LARGEST, SIZE_WEIGHT

OVERLAP = 0.5
"""Intersection over union from which on a default box is responsible for an object."""
NEGATIVES = 3
"""Default boxes without an object that count, for each one with an object in the same image."""


def ssd_loss(
    raw: Sequence[Tensor],
    anchors: Tensor,
    boxes_per_cell: Sequence[int],
    annotations: Sequence[Annotations],
    losses: Losses = OWN,
) -> dict[str, Tensor]:
    """Return the terms ``box`` and ``class``, each per responsible default box.

    Args:
        raw: per level: class logits (B, K·(C + 1), h, w), background first, and box offsets (B, K·4, h, w).
        anchors: (N, 4) default boxes of all levels, in pixels.
        boxes_per_cell: K of each level.
        annotations: of the B images, boxes in pixels of the input; an image may have none. Default boxes on entries to
            ignore count only where they are responsible for another object.
        losses: in place of smooth L1 of the offsets and of cross-entropy, both with hard negatives but for focal.
    """
    logits, offsets = class_and_box_maps(raw, boxes_per_cell)
    wanted_class, wanted_box = assign(anchors, annotations)
    objects = wanted_class > 0
    count = max(int(objects.sum()), 1)
    mine = anchors.expand(len(annotations), -1, -1)[objects]
    if losses.box in (None, "smooth_l1"):
        off = F.smooth_l1_loss(offsets[objects], encode(wanted_box[objects], mine), reduction="sum")
    elif is_torchs(losses.box):
        off = torch_loss(losses.box)(offsets[objects], encode(wanted_box[objects], mine)).sum()
    else:
        off = box_loss(losses.box, decode(offsets[objects], mine), wanted_box[objects]).sum()
    wrong = label_loss(losses.classes, logits.flatten(0, 1), wanted_class.flatten()).view_as(wanted_class)
    background = ~objects & ~torch.stack([on_ignored(anchors, truth) for truth in annotations])
    if losses.classes == "focal":
        classes = ((1 - (-wrong).exp()).pow(FOCAL_GAMMA) * wrong)[objects | background].sum()
    else:
        classes = wrong[objects | hard_negatives(wrong.detach(), objects, background)].sum()
    return {"box": off / count, "class": classes / count}


def class_and_box_maps(raw: Sequence[Tensor], boxes_per_cell: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return class logits (B, N, C + 1) and offsets (B, N, 4) of the default boxes of all levels, in float32."""
    logits, offsets = (
        torch.cat([flattened(maps, k) for maps, k in zip(raw[kind::2], boxes_per_cell, strict=True)], 1).float()
        for kind in range(2)
    )
    return logits, offsets


def flattened(maps: Tensor, boxes: int) -> Tensor:
    """Return maps (B, K·V, h, w) as (B, h·w·K, V): values of each default box, cell by cell."""
    batch, channels, height, width = maps.shape
    return maps.view(batch, boxes, channels // boxes, height * width).permute(0, 3, 1, 2).flatten(1, 2)


@torch.no_grad()
def assign(anchors: Tensor, annotations: Sequence[Annotations]) -> tuple[Tensor, Tensor]:
    """Return for each image and default box the class (B, N), 0 for background, and the box (B, N, 4) it is to find."""
    classes = torch.zeros(len(annotations), len(anchors), dtype=torch.int64, device=anchors.device)
    boxes = torch.zeros(len(annotations), len(anchors), 4, device=anchors.device)
    for image, truth in enumerate(trained_on(annotations)):
        if not len(truth.labels):
            continue
        wanted = torch.from_numpy(truth.boxes).to(anchors.device)
        labels = torch.from_numpy(truth.labels).to(anchors.device)
        overlaps = box_iou(wanted, anchors)
        overlap, index = overlaps.max(0)
        responsible = overlap >= OVERLAP
        closest = overlaps.argmax(1)
        index[closest] = torch.arange(len(wanted), device=anchors.device)
        responsible[closest] = True
        classes[image] = torch.where(responsible, labels[index] + 1, 0)
        boxes[image] = wanted[index]
    return classes, boxes


def hard_negatives(wrong: Tensor, objects: Tensor, background: Tensor) -> Tensor:
    """Return (B, N), which default boxes of the background count: in each image the worst, three for each object's."""
    order = wrong.masked_fill(~background, -torch.inf).argsort(1, descending=True)
    rank = order.argsort(1)
    return (rank < NEGATIVES * objects.sum(1, keepdim=True)) & background


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return the offsets (P, 4) that turn default boxes (P, 4) into boxes (P, 4)."""
    sides, anchor_sides = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    moved = boxes[:, :2] + sides / 2 - anchors[:, :2] - anchor_sides / 2
    return torch.cat([CENTRE_WEIGHT * moved / anchor_sides, SIZE_WEIGHT * (sides / anchor_sides).log()], 1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Return the boxes (P, 4) that offsets (P, 4) make of default boxes (P, 4)."""
    sides = anchors[:, 2:] - anchors[:, :2]
    centres = anchors[:, :2] + sides / 2 + offsets[:, :2] / CENTRE_WEIGHT * sides
    half = (offsets[:, 2:] / SIZE_WEIGHT).clamp(max=LARGEST).exp() * sides / 2
    return torch.cat([centres - half, centres + half], 1)
