"""Sparsity: the smallest weights become zeros, which later fine-tuning keeps.

Han et al., Learning both Weights and Connections, NeurIPS 2015 (arXiv:1506.02626); Zhu and Gupta, To prune, or not to
prune (arXiv:1710.01878); two of four: Mishra et al., Accelerating Sparse Deep Neural Networks (arXiv:2104.08378).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from paretune.compression.base import Context, ContextPart, Step
from paretune.core.model import Model, WeightProperty

if TYPE_CHECKING:
    from torch import Tensor

HALF = 0.5
"""Share of zeros in pattern 2:4."""


class Sparsify(Step):
    """Set the smallest weights of convolutions and linear layers to zero."""

    name: ClassVar[str] = "sparsify"
    makes: ClassVar[frozenset[WeightProperty]] = frozenset({"zeros"})

    pattern: Literal["unstructured", "2:4"] = "unstructured"
    """Places of the zeros. unstructured: the smallest weights anywhere; 2:4: two of every four neighbouring inputs, the
    form of NVIDIA's sparse tensor cores, which TensorRT uses in fp16 and INT8. On other runtimes both reduce the size
    only."""
    sparsity: float = Field(default=HALF, ge=0, lt=1)
    """Share of the weights that become zeros; a half for pattern 2:4."""
    scope: Literal["local", "global"] = "local"
    """Weights that are compared. local: every layer loses the share; global: the whole network does, its smallest
    weights first. Layers with many inputs have small weights and may lose all of them."""
    keep_outputs: bool = True
    """Leave the last layers, whose outputs are boxes and scores, unchanged."""

    @model_validator(mode="after")
    def _check_pattern(self) -> Sparsify:
        if self.pattern == "2:4" and self.sparsity != HALF:
            raise ValueError(f"pattern 2:4 is a sparsity of {HALF:g}, not {self.sparsity:g}")
        return self

    def uses(self) -> frozenset[ContextPart]:
        """Return nothing: the weights decide."""
        return frozenset()

    def _apply(self, model: Model, context: Context) -> Model:
        """Set the smallest weights of a copy of the network to zero."""
        import torch

        from paretune.networks.network_files import copy_network
        from paretune.networks.weighted_layers import weighted_layers

        network = copy_network(model.torch_network)
        layers = weighted_layers(network, context.detector, keep_outputs=self.keep_outputs)
        weights = [layer.weight.detach() for layer in layers.values()]
        if self.pattern == "2:4":
            weights = [weight for weight in weights if weight.shape[1] % 4 == 0]
            gone = [smaller_half_of_four(weight) for weight in weights]
        else:
            gone = smallest(weights, self.sparsity, together=self.scope == "global")
        changed = sum(int((weight[zeros] != 0).sum()) for weight, zeros in zip(weights, gone, strict=True))
        with torch.no_grad():
            for weight, zeros in zip(weights, gone, strict=True):
                weight[zeros] = 0
        if not changed:
            return model.unchanged(f"sparsify changed nothing: {self._request} asks for no further zeros")
        empty = [name for name, layer in layers.items() if not layer.weight.any()]
        made = replace(model, network=network).noted(*(f"sparsify: all weights of {name} are zero" for name in empty))
        total: int = sum(weight.numel() for weight in weights)
        zero: int = sum(int(weight.eq(0).sum()) for weight in weights)
        where = " but by TensorRT in fp16 or INT8, on GPUs with sparse tensor cores" if self.pattern == "2:4" else ""
        gained = f"{zero / total:.0%} zeros gain size when coded (coded_mib)"
        return made.noted(f"sparsify: {gained}, no latency{where}")

    @property
    def _request(self) -> str:
        return "pattern 2:4" if self.pattern == "2:4" else f"sparsity {self.sparsity:g}"


def smallest(weights: Sequence[Tensor], share: float, *, together: bool) -> list[Tensor]:
    """Return masks of the smallest weights, one for each layer.

    Args:
        weights: of the layers.
        share: of the weights that the masks select, of each layer or of all together; rounded to whole weights.
        together: compare weights of different layers.
    """
    import torch

    if not together:
        return [_smallest(weight.flatten(), share).reshape(weight.shape) for weight in weights]
    mask = _smallest(torch.cat([weight.flatten() for weight in weights]), share)
    parts = torch.split(mask, [weight.numel() for weight in weights])
    return [part.reshape(weight.shape) for part, weight in zip(parts, weights, strict=True)]


def _smallest(values: Tensor, share: float) -> Tensor:
    import torch

    mask = torch.zeros(len(values), dtype=torch.bool)
    mask[values.abs().argsort(stable=True)[: round(share * len(values))]] = True
    return mask


def smaller_half_of_four(weight: Tensor) -> Tensor:
    """Return a mask of the two smallest of every four neighbouring inputs; weights (O, I, ...), I a multiple of 4."""
    import torch

    last = weight.movedim(1, -1)
    fours = last.abs().reshape(-1, 4)
    mask = torch.zeros(fours.shape, dtype=torch.bool)
    mask.scatter_(1, fours.argsort(dim=1, stable=True)[:, :2], value=True)
    return mask.reshape(last.shape).movedim(-1, 1)
