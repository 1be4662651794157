"""The exponential moving average of a network, which is what a training keeps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ModelEma:
    """The exponential moving average of weights and batch-norm statistics (Polyak and Juditsky, 1992).

    The decay rises with the steps, (1 + n) / (10 + n) at most, so that the first weights, which are
    noise, are forgotten also in a training of few steps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self._pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mean, now in self._pairs:
            if mean.is_floating_point():
                mean.lerp_(now, share)
            else:
                mean.copy_(now)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Go on from an average that was taken over some steps."""
        self.network.load_state_dict(weights)
        self.steps = steps
