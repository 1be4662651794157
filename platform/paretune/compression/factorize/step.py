"""Low-rank factorization: a large layer becomes a chain of small ones with fewer operations.

The singular value decomposition and Tucker's are in ``lowrank``, with their papers. What a trained layer loses depends
on its spectrum, and fine-tuning gets much of it back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.core.model import Model

if TYPE_CHECKING:
    from torch import Tensor, nn

    from paretune.compression.factorize.decompose import LayerUse
    from paretune.networks.layer_chain import Chain
    from paretune.networks.weighted_layers import WeightedLayer


class Factorize(Step):
    """Put chains of smaller layers in place of convolutions and linear layers, where that saves operations.

    Depthwise and grouped convolutions and the predictors stay as they are.
    """

    name: ClassVar[str] = "factorize"

    method: Literal["svd", "tucker"] = "tucker"
    """svd: a convolution to fewer channels, then 1x1; tucker: 1x1, a convolution of fewer channels, 1x1. Linear layers
    and 1x1 convolutions are matrices: svd for both."""
    energy: float = Field(default=0.8, gt=0, le=1)
    """Share of the squared singular values that each layer keeps: decides its ranks."""
    rank: float | None = Field(default=None, gt=0, le=1)
    """In place of energy: share of the channels, the same for every layer."""
    round_to: int = Field(default=8, ge=1, le=256)
    """Ranks are rounded up to a multiple of this."""
    min_channels: int = Field(default=16, ge=1, le=65536)
    """Layers of fewer inputs or outputs stay as they are."""
    gain: float = Field(default=0.1, ge=0, lt=1)
    """Share of its operations that a layer must lose at least, or it stays as it is: every further layer costs time."""

    def _apply(self, model: Model, context: Context) -> Model:
        """Factorize a copy of the network; every layer's parameters and operations fall, or it is left."""
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
        wish = f"energy {self.energy:g}" if self.rank is None else f"rank {self.rank:g}"
        if not changed:
            return model.unchanged(f"factorize changed nothing: no layer gets {self.gain:.0%} cheaper at {wish}")
        left, made = len(layers) - len(changed), replace(model, network=network)
        return made.noted(f"factorize: {len(changed)} layers in low rank; {left} would not get cheaper at {wish}")

    def _chain(self, layer: WeightedLayer, use: LayerUse) -> Chain | None:
        """Return what would stand in a layer's place, or None where it would not pay."""
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
        found = spectrum(matrix)
        return svd_chain(layer, self._rank(found[0], min(matrix.shape)), found)

    def _in_three(self, layer: nn.Conv2d) -> Chain:
        from paretune.compression.factorize.decompose import matrix_of, spectrum, tucker_chain, unfolded

        sides = matrix_of(layer), unfolded(layer.weight)
        outer, inner = (self._rank(spectrum(side)[0], min(side.shape)) for side in sides)
        return tucker_chain(layer, outer, inner)

    def _rank(self, squares: Tensor, full: int) -> int:
        """Return the rank of one side of a layer: of the energy or the share, rounded up."""
        from paretune.compression.factorize.decompose import rank_of_energy

        wanted = rank_of_energy(squares, self.energy) if self.rank is None else max(1, round(self.rank * full))
        return min(full, -(-wanted // self.round_to) * self.round_to)


def _factorable(network: nn.Module, context: Context, least: int) -> dict[str, WeightedLayer]:
    """Return the layers that a chain may stand for, by their names."""
    from torch import nn

    from paretune.networks.replacement_layers import Replacement
    from paretune.networks.weighted_layers import weighted_layers

    found = weighted_layers(network, context.detector, keep_outputs=True)
    replaced = (module for module in network.modules() if isinstance(module, Replacement))
    inside = {id(inner) for module in replaced if isinstance(module, nn.Module) for inner in module.modules()}
    return {name: layer for name, layer in found.items() if id(layer) not in inside and _is_plain(layer, least)}


def _is_plain(layer: WeightedLayer, least: int) -> bool:
    """Tell whether a layer is of one group, padded with zeros, wide enough, and no subclass that computes otherwise."""
    from torch import nn

    if type(layer) is nn.Linear:
        return min(layer.in_features, layer.out_features) >= least
    if type(layer) is not nn.Conv2d or layer.groups > 1:
        return False
    padded = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return padded and min(layer.in_channels, layer.out_channels) >= least
