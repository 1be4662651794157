"""RoIAlign for training on a CPU: the sum of torchvision's kernel as matrix products, forwards and backwards.

He et al., Mask R-CNN, ICCV 2017 (arXiv:1703.06870). Bilinear sampling of a grid is separable, so a region's parts are
its map multiplied from either side, and their gradient is the same transposed. torchvision's kernel adds up one
sample at a time, which backwards was a quarter of a training step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from paretune.core.types import InputSize
from paretune.detectors.faster_rcnn.decode import POOL, level_of, weights

MOST_CELLS = 10_000
"""Cells of a map up to which products are faster: they grow with the cells, the kernel's samples do not."""
AT_ONCE = 16
"""Regions whose products are made together, so that what lies between two of them stays in the cache."""


def is_faster(maps: Sequence[Tensor]) -> bool:
    """Return whether pooling from maps (B, C, h, w) by products is the faster way."""
    return all(plane.device.type == "cpu" and plane[0, 0].numel() <= MOST_CELLS for plane in maps)


def pooled(maps: Sequence[Tensor], regions: Sequence[Tensor], size: InputSize) -> Tensor:
    """Return the 7 x 7 parts of all regions of all images, one image after the other: (sum of R, C, 7, 7) float32.

    Equal to torchvision's ``MultiScaleRoIAlign`` with two points a side.

    Args:
        maps: finest first, each (B, C, h, w).
        regions: of each image (R, 4), in pixels of the input.
        size: of the input.
    """
    boxes = torch.cat(list(regions)).detach().float().numpy()
    owner = torch.cat([torch.full((len(part),), image) for image, part in enumerate(regions)])
    scales, level = level_of([plane.shape[2] for plane in maps], boxes, size)
    places, parts = [], []
    for number, plane in enumerate(maps):
        for image in range(len(regions)):
            chosen = torch.nonzero((owner == image) & torch.from_numpy(level == number))[:, 0]
            if not len(chosen):
                continue
            own = boxes[chosen.numpy()] * scales[number]
            down, across = (torch.from_numpy(weights(own[:, i], own[:, i + 2], plane.shape[2 + 1 - i])) for i in (1, 0))
            places.append(chosen)
            parts.append(_Align.apply(plane[image].float(), down, across))
    if not parts:
        return maps[0].new_zeros(0, maps[0].shape[1], POOL, POOL, dtype=torch.float32)
    order, features = torch.cat(places), torch.cat(parts) if len(parts) > 1 else parts[0]
    return features if bool((order.diff() > 0).all()) else features[torch.argsort(order)]


class _Align(torch.autograd.Function):
    """One map (C, h, w) and weights (R, 7, h), (R, 7, w) → parts (R, C, 7, 7)."""

    @staticmethod
    def forward(ctx: Any, plane: Tensor, down: Tensor, across: Tensor) -> Tensor:
        """Multiply the map from either side."""
        ctx.save_for_backward(down, across)
        ctx.shape = plane.shape
        channels, height, width = plane.shape
        table = plane.transpose(0, 1).reshape(height, channels * width)
        parts = plane.new_empty(len(down), POOL, channels, POOL)
        with torch.autocast("cpu", enabled=False):
            for some in _chunks(len(down)):
                rows = (down[some].reshape(-1, height) @ table).view(-1, POOL * channels, width)
                torch.bmm(rows, across[some].transpose(1, 2), out=parts[some].view(-1, POOL * channels, POOL))
        return parts.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Multiply the gradient of the parts from either side; add up over regions."""
        down, across = ctx.saved_tensors
        channels, height, width = ctx.shape
        table = down.new_zeros(height, channels * width)
        for some in _chunks(len(down)):
            part = gradients[0][some].transpose(1, 2).reshape(-1, POOL * channels, POOL)
            rows = torch.bmm(part, across[some])
            table.addmm_(down[some].reshape(-1, height).T, rows.view(-1, channels * width))
        return table.view(height, channels, width).transpose(0, 1), None, None


def _chunks(count: int) -> Iterator[slice]:
    return (slice(first, first + AT_ONCE) for first in range(0, count, AT_ONCE))
