"""Which cells answer for which object, and what their answers cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from paretune.core.types import Annotations

STRIDE = 4
REACH = 1.5
"""Cells whose centres lie so many cells from an object's centre, and in its box, answer for it."""


def centre_loss(
    scores: Tensor, distances: Tensor, annotations: Sequence[Annotations], power: float
) -> dict[str, Tensor]:
    """Return a focal loss (Lin et al., ICCV 2017) of all cells and an IoU loss of those that answer for an object."""
    labels, edges, answering = _targets(scores, annotations)
    objects = max(sum(len(one.labels) for one in annotations), 1)
    probability = torch.sigmoid(scores)
    wrong = torch.where(labels > 0, 1 - probability, probability)
    costs = functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    focal = (torch.where(labels > 0, 0.5, 0.25) * wrong**power * costs).sum() / objects
    found = distances.clamp(-8, 8).exp().permute(0, 2, 3, 1)[answering]
    wanted = edges.permute(0, 2, 3, 1)[answering]
    shared = torch.minimum(found, wanted)
    inner = (shared[:, 0] + shared[:, 2]) * (shared[:, 1] + shared[:, 3])
    union = (found[:, 0] + found[:, 2]) * (found[:, 1] + found[:, 3])
    union = union + (wanted[:, 0] + wanted[:, 2]) * (wanted[:, 1] + wanted[:, 3]) - inner
    overlap = inner / union.clamp(min=1e-6)
    boxes = (1 - overlap).sum() / max(len(found), 1) + 0 * distances.sum()  # without objects too, all have a gradient
    return {"scores": focal, "boxes": 2 * boxes}


def _targets(scores: Tensor, annotations: Sequence[Annotations]) -> tuple[Tensor, Tensor, Tensor]:
    """Return labels (B, C, h, w), distances (B, 4, h, w) in cells, and which cells (B, h, w) answer for an object."""
    batch, _, height, width = scores.shape
    device = scores.device
    labels = torch.zeros(scores.shape, device=device)
    edges = torch.zeros(batch, 4, height, width, device=device)
    answering = torch.zeros(batch, height, width, dtype=torch.bool, device=device)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij"
    )
    for index, truth in enumerate(annotations):
        boxes = torch.as_tensor(truth.boxes, dtype=torch.float32, device=device) / STRIDE
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for place in torch.argsort(areas, descending=True).tolist():  # the smaller object has the last word
            left, top, right, bottom = boxes[place]
            near = ((columns - (left + right) / 2).abs() <= REACH) & ((rows - (top + bottom) / 2).abs() <= REACH)
            sides = torch.stack([columns - left, rows - top, right - columns, bottom - rows])
            cells = near & (sides > 0.05).all(0)
            labels[index, :, cells] = 0
            labels[index, int(truth.labels[place]), cells] = 1
            edges[index, :, cells] = sides[:, cells]
            answering[index] |= cells
    return labels, edges, answering
