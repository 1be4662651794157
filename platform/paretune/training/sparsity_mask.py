"""Weights that are zero before a training and zero after it: what ``sparsify`` has removed stays removed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


class SparsityMask:
    """The weights that are zero now, of the parameters that have more than one dimension and are trained.

    Han et al., Learning both Weights and Connections, NeurIPS 2015 (arXiv:1506.02626): what is left is
    trained without what was removed. Also for 2:4 (Mishra et al., arXiv:2104.08378, section 3.1).
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = (weight for weight in parameters if weight.requires_grad and weight.ndim > 1)
        self._kept = [(weight, weight.detach() != 0) for weight in trained if not weight.all()]

    def in_gradients(self) -> None:
        """Take the zeros' gradients away, so that neither the norm of the gradient nor a momentum counts them."""
        for weight, kept in self._kept:
            if weight.grad is not None:
                weight.grad.mul_(kept)

    @torch.no_grad()
    def in_weights(self) -> None:
        """Set them to zero again, whatever the optimizer has made of them."""
        for weight, kept in self._kept:
            weight.mul_(kept)
