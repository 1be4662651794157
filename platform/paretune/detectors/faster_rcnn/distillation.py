"""Distillation of Faster R-CNN: its region proposals, and the classes of the proposed regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.detectors.losses import binary_divergence, divergence


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


def _by_anchor(offsets: Tensor) -> Tensor:
    """Return offsets (B, 4·K, h, w) as (B·K·h·w, 4), in the order of the flattened objectness (B, K, h, w)."""
    batch, channels, height, width = offsets.shape
    return offsets.reshape(batch, channels // 4, 4, height, width).permute(0, 1, 3, 4, 2).reshape(-1, 4)
