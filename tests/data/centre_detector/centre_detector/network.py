"""A small network of group norms; a transposed convolution enlarges its deepest maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a convolution, a group norm and an activation."""
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.SiLU())


class Network(nn.Module):
    """Images (B, 3, H, W) → (B, C, H/4, W/4) logits of classes, (B, 4, H/4, W/4) logarithms of distances."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.stem = block(3, width, 2)
        self.trunk = nn.Sequential(block(width, width, 2), block(width, width, 1))
        self.deep = nn.Sequential(block(width, 2 * width, 2), block(2 * width, 2 * width, 1))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.neck = block(2 * width, 2 * width, 1)
        self.scores = nn.Conv2d(2 * width, num_classes, 1)
        self.distances = nn.Conv2d(2 * width, 4, 1)
        nn.init.constant_(self.scores.bias, -4.0)
        nn.init.constant_(self.distances.bias, 0.5)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        near = self.trunk(self.stem(images))
        x = self.neck(torch.cat((near, self.up(self.deep(near))), 1))
        return self.scores(x), self.distances(x)
