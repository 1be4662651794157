"""Low-rank factorization: a chain of small layers with fewer operations replaces a large layer.

``decompose`` holds the decompositions and their papers. The loss of accuracy depends on the spectrum of the layers;
fine-tuning recovers much of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from paretune.compression.base import Context, ContextPart, Step
from paretune.core.model import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.compression.factorize.decompose import LayerUse
    from paretune.networks.layer_chain import Chain
    from paretune.networks.weighted_layers import WeightedLayer


class Factorize(Step):
    """Replace convolutions and linear layers by chains of smaller ones, where that saves operations.

    Depthwise and grouped convolutions and the predictors stay unchanged.
    """

    name: ClassVar[str] = "factorize"

    method: Literal["svd", "tucker"] = "tucker"
    """Chain in place of a layer: svd is a convolution to fewer channels, then 1x1; tucker is 1x1, a convolution with
    fewer channels, 1x1. Both use svd for linear layers and 1x1 convolutions."""
    energy: float = Field(default=0.8, gt=0, le=1)
    """Share of the squared singular values that each layer keeps, which decides its ranks."""
    rank: float | None = Field(default=None, gt=0, le=1)
    """Rank as a share of the channels, equal for every layer; replaces energy."""
    round_to: int = Field(default=8, ge=1, le=256)
    """Multiple that ranks are rounded up to."""
    min_channels: int = Field(default=16, ge=1, le=65536)
    """Fewest inputs and outputs of a layer that is factorized."""
    gain: float = Field(default=0.1, ge=0, lt=1)
    """Smallest share of its operations that a layer must lose to be replaced, since every further layer costs time."""

    def uses(self) -> frozenset[ContextPart]:
        """Return nothing: the weights decide."""
        return frozenset()

    def _apply(self, model: Model, context: Context) -> Model:
        """Factorize the layers of a copy of the network whose parameters and operations decrease by it."""
        import torch

        from paretune.compression.factorize.decompose import uses
        from paretune.networks.network_files import copy_network

        network = copy_network(model.torch_network)
        layers = _factorable(network, context, self.min_channels)
        image = torch.zeros(1, 3, model.input_size.height, model.input_size.width)
        used = uses(network, layers, lambda: network(image))
        chains = {name: self._chain(layer, used[name]) for name, layer in layers.items()}
        changed = {name: chain for name, chain in chains.items() if chain is not None}
        for name, chain in changed.items():
            network.set_submodule(name, chain)
        request = f"energy {self.energy:g}" if self.rank is None else f"rank {self.rank:g}"
        if not changed:
            return model.unchanged(f"factorize changed nothing: no layer gets {self.gain:.0%} cheaper at {request}")
        left, made = len(layers) - len(changed), replace(model, network=network)
        return made.noted(f"factorize: {len(changed)} layers in low rank; {left} would not get cheaper at {request}")

    def _chain(self, layer: WeightedLayer, use: LayerUse) -> Chain | None:
        """Return the chain that replaces a layer, or None if it does not save enough operations."""
        from torch import nn

        from paretune.compression.factorize.decompose import operations

        if self.method == "tucker" and isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            chain = self._in_three(layer)
        else:
            chain = self._in_two(layer)
        fewer = sum(part.numel() for part in chain.parameters()) < sum(part.numel() for part in layer.parameters())
        before = operations(layer, use)
        pays = operations(chain, use) <= (1 - self.gain) * before and operations(chain, use) < before
        return chain if fewer and pays else None

    def _in_two(self, layer: WeightedLayer) -> Chain:
        from paretune.compression.factorize.decompose import matrix_of, spectrum, svd_chain

        matrix = matrix_of(layer)
        decomposed = spectrum(matrix)
        return svd_chain(layer, self._rank(decomposed[0], min(matrix.shape)), decomposed)

    def _in_three(self, layer: nn.Conv2d) -> Chain:
        from paretune.compression.factorize.decompose import matrix_of, spectrum, tucker_chain, unfolded

        sides = matrix_of(layer), unfolded(layer.weight)
        outer, inner = (self._rank(spectrum(side)[0], min(side.shape)) for side in sides)
        return tucker_chain(layer, outer, inner)

    def _rank(self, squares: Tensor, full: int) -> int:
        """Return the rank of one side of a layer, from the energy or the share of channels, rounded up."""
        from paretune.compression.factorize.decompose import rank_of_energy

        rank = rank_of_energy(squares, self.energy) if self.rank is None else max(1, round(self.rank * full))
        return min(full, -(-rank // self.round_to) * self.round_to)


def _factorable(network: nn.Module, context: Context, least: int) -> dict[str, WeightedLayer]:
    """Return the layers that a chain may replace, by name."""
    from torch import nn

    from paretune.networks.replacement_layers import Replacement
    from paretune.networks.weighted_layers import weighted_layers

    layers = weighted_layers(network, context.detector, keep_outputs=True)
    replaced = (module for module in network.modules() if isinstance(module, Replacement))
    inside = {id(inner) for module in replaced if isinstance(module, nn.Module) for inner in module.modules()}
    return {name: layer for name, layer in layers.items() if id(layer) not in inside and _is_plain(layer, least)}


def _is_plain(layer: WeightedLayer, least: int) -> bool:
    """Return whether a layer has one group, zero padding and enough channels, and is not of a subclass."""
    from torch import nn

    if type(layer) is nn.Linear:
        return min(layer.in_features, layer.out_features) >= least
    if type(layer) is not nn.Conv2d or layer.groups > 1:
        return False
    padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return padded and min(layer.in_channels, layer.out_channels) >= least
