"""The training loss of YOLOX: assignment of boxes to cells, and the terms of their errors.

Ge et al., "YOLOX", arXiv:2107.08430, section 2.1 (SimOTA), a cheap form of Ge et al., "OTA: Optimal
Transport Assignment for Object Detection", arXiv:2103.14259. All images, levels and boxes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from paretune.core.types import Annotations
from paretune.detectors.base import OWN, Losses
from paretune.detectors.losses import aligned_iou, box_loss, class_loss, on_ignored, trained_on
from paretune.detectors.yolox.decode import LARGEST

BOX_WEIGHT = 5.0
OVERLAP_COST = 3.0
"""Weight of the overlap against the classification in the cost of an assignment."""
CENTRE_RADIUS = 1.5
"""A box may only be given to cells whose centre lies this close (in strides, per axis) to its own."""
MOST_CELLS = 10
"""Most cells that one box is given to."""


@dataclass(frozen=True)
class Predictions:
    """The raw maps of all levels side by side, in float32; A is the number of cells."""

    boxes: Tensor
    """(B, A, 4), x1 y1 x2 y2 in pixels of the input."""
    objectness: Tensor
    """(B, A) logits."""
    classes: Tensor
    """(B, A, C) logits."""
    centres: Tensor
    """(A, 2) centre of each cell in pixels."""
    strides: Tensor
    """(A,) pixels."""


@dataclass(frozen=True)
class AssignedCells:
    """The cells that are responsible for a box; P of them in the batch, N boxes at most in an image."""

    image: Tensor
    """(P,)."""
    cell: Tensor
    """(P,)."""
    box: Tensor
    """(P,) index of the box in its image."""
    iou: Tensor
    """(P,) overlap of the predicted box with the true one: how sure the class should be."""


def yolox_loss(
    raw: Sequence[Tensor], strides: Sequence[int], annotations: Sequence[Annotations], losses: Losses = OWN
) -> dict[str, Tensor]:
    """Return the terms ``box``, ``objectness`` and ``class``, each per responsible cell.

    Args:
        raw: per level: box (B, 4, h, w), objectness (B, 1, h, w), class logits (B, C, h, w).
        strides: pixels between the cells of each level.
        annotations: of the B images, boxes in pixels of the input; an image may have none. Cells that predict a box on
            an entry to ignore have no objectness loss, unless they are responsible for another object.
        losses: in place of 1 - IoU² for boxes and binary cross-entropy for classes.
    """
    found = predictions(raw, strides)
    boxes, labels, real = stack_annotations(trained_on(annotations), found.boxes.device)
    with torch.no_grad():
        given = assign(found, boxes, labels, real)
    count = max(len(given.image), 1)
    wanted = torch.zeros_like(found.objectness)
    wanted[given.image, given.cell] = 1
    predicted = zip(found.boxes.detach(), annotations, strict=True)
    taught = (wanted > 0) | ~torch.stack([on_ignored(cells, truth) for cells, truth in predicted])
    objectness = F.binary_cross_entropy_with_logits(found.objectness, wanted, weight=taught.float(), reduction="sum")
    chosen, wanted_boxes = found.boxes[given.image, given.cell], boxes[given.image, given.box]
    if losses.box is None:
        off = 1 - aligned_iou(chosen, wanted_boxes).square()
    else:
        off = box_loss(losses.box, chosen, wanted_boxes)
    logits = found.classes[given.image, given.cell]
    certainty = F.one_hot(labels[given.image, given.box], logits.shape[-1]) * given.iou[:, None]
    return {
        "box": BOX_WEIGHT * off.sum() / count,
        "objectness": objectness / count,
        "class": class_loss(losses.classes or "bce", logits, certainty).sum() / count,
    }


def predictions(raw: Sequence[Tensor], strides: Sequence[int]) -> Predictions:
    """Lay the maps of all levels side by side and turn box offsets into corners."""
    offsets, objectness, classes = (
        torch.cat([maps.flatten(2) for maps in raw[kind::3]], 2).float().transpose(1, 2) for kind in range(3)
    )
    corners, steps = [], []
    for maps, stride in zip(raw[::3], strides, strict=True):
        rows, columns = (torch.arange(side, device=maps.device, dtype=torch.float32) for side in maps.shape[-2:])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        corners.append(torch.stack((x, y), -1).reshape(-1, 2) * stride)
        steps.append(torch.full((maps.shape[-2] * maps.shape[-1],), float(stride), device=maps.device))
    corner, step = torch.cat(corners), torch.cat(steps)
    centre = offsets[..., :2] * step[:, None] + corner
    half = offsets[..., 2:].clamp(max=LARGEST).exp() * (step[:, None] / 2)
    boxes = torch.cat((centre - half, centre + half), -1)
    return Predictions(boxes, objectness[..., 0], classes, corner + step[:, None] / 2, step)


def stack_annotations(annotations: Sequence[Annotations], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Stack the boxes of all images: (B, N, 4), labels (B, N), and which are real (B, N); N is at least 1."""
    most = max(1, *(len(entry.labels) for entry in annotations))
    boxes, labels = torch.zeros(len(annotations), most, 4), torch.zeros(len(annotations), most, dtype=torch.int64)
    real = torch.zeros(len(annotations), most, dtype=torch.bool)
    for row, entry in enumerate(annotations):
        count = len(entry.labels)
        boxes[row, :count] = torch.from_numpy(entry.boxes)
        labels[row, :count] = torch.from_numpy(entry.labels)
        real[row, :count] = True
    return boxes.to(device), labels.to(device), real.to(device)


def assign(found: Predictions, boxes: Tensor, labels: Tensor, real: Tensor) -> AssignedCells:
    """Return the cells that are responsible for each box: the few that already predict it best (SimOTA).

    Their number is the sum of the box's ten best overlaps, so a box that is predicted well gets more. A cell that
    several boxes want goes to the one it costs least.

    Args:
        found: the predictions.
        boxes: (B, N, 4).
        labels: (B, N).
        real: (B, N) False for padding.
    """
    near = _near(found, boxes) & real[..., None]  # (B, N, A)
    overlap = pairwise_iou(boxes, found.boxes) * near.any(1, keepdim=True)  # only cells that some box may take
    cost = _class_cost(found, labels) - OVERLAP_COST * (overlap + 1e-8).log()
    cost = cost.masked_fill(~near, torch.inf)
    most = min(MOST_CELLS, cost.shape[-1])
    number = overlap.topk(most, -1).values.sum(-1).int().clamp(min=1)  # (B, N)
    cheapest, cells = cost.topk(most, -1, largest=False)
    rank = torch.arange(most, device=cost.device)
    taken = (rank < number[..., None]) & cheapest.isfinite()
    price = torch.full_like(cost, torch.inf).scatter(-1, cells, cheapest.masked_fill(~taken, torch.inf))
    lowest, box = price.min(1)  # (B, A)
    image, cell = lowest.isfinite().nonzero(as_tuple=True)
    box = box[image, cell]
    return AssignedCells(image, cell, box, overlap[image, box, cell])


def _near(found: Predictions, boxes: Tensor) -> Tensor:
    """Return (B, N, A), which cells lie around the centre of which box."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    distance = (centre[:, :, None] - found.centres).abs().amax(-1)
    return distance < CENTRE_RADIUS * found.strides


def _class_cost(found: Predictions, labels: Tensor) -> Tensor:
    """Return (B, N, A): cross-entropy of each cell's scores against each box's class.

    The score is the geometric mean of objectness and class. Summed over classes it is the entropy of
    "no class at all", plus a change at the box's own class: no (B, N, A, C) array is needed.
    """
    log_score = (F.logsigmoid(found.classes) + F.logsigmoid(found.objectness)[..., None]) / 2  # (B, A, C)
    no = -torch.log1p(-log_score.exp().clamp(max=1 - 1e-6))
    own = (-log_score - no).transpose(1, 2)  # (B, C, A)
    index = labels[..., None].expand(-1, -1, own.shape[-1])
    return no.sum(-1)[:, None] + own.gather(1, index)


def pairwise_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (B, N, A), the intersection over union of boxes (B, N, 4) with others (B, A, 4)."""
    low = torch.maximum(boxes[:, :, None, :2], others[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], others[:, None, :, 2:])
    return _ratio(low, high, boxes[:, :, None], others[:, None])


def _ratio(low: Tensor, high: Tensor, boxes: Tensor, others: Tensor) -> Tensor:
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (boxes, others)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-9)
