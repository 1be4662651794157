"""Chains of small layers that approximate a large one.

The singular value decomposition splits a matrix of outputs by inputs in two: Denton et al., Exploiting Linear
Structure Within Convolutional Networks, NeurIPS 2014 (arXiv:1404.0736); Zhang et al., Accelerating Very Deep
Convolutional Networks (arXiv:1505.06798); Girshick, Fast R-CNN, ICCV 2015 (arXiv:1504.08083), section 3.1. Tucker's
decomposition of outputs and inputs splits a convolution in three: Kim et al., ICLR 2016 (arXiv:1511.06530).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from paretune.networks.layer_chain import Chain
from paretune.networks.weighted_layers import WeightedLayer

L = TypeVar("L", nn.Conv2d, nn.Linear)

SWEEPS = 2
"""Sweeps of orthogonal iteration after Tucker's first guess; further ones change the error in its fourth digit."""
_ZERO = 1e-12


@dataclass
class LayerUse:
    """Positions that a layer computes in one inference; those of a linear layer are rows."""

    given: int = 0
    """Input positions, summed over its calls."""
    made: int = 0
    """Output positions, summed over its calls."""


def uses(network: nn.Module, layers: dict[str, WeightedLayer], run: Callable[[], Any]) -> dict[str, LayerUse]:
    """Return the positions of every layer during a call of ``run``, which runs the network."""
    counts = {name: LayerUse() for name in layers}

    def noting(use: LayerUse) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            channels = -1 if isinstance(module, nn.Linear) else -3
            use.given += inputs[0].numel() // inputs[0].shape[channels]
            use.made += output.numel() // output.shape[channels]

        return note

    training = network.training
    hooks = [layer.register_forward_hook(noting(counts[name])) for name, layer in layers.items()]
    try:
        network.eval()
        with torch.no_grad():
            run()
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    return counts


def operations(layer: WeightedLayer | Chain, use: LayerUse) -> int:
    """Return the multiply-adds of one inference."""
    if not isinstance(layer, Chain):
        return layer.weight.numel() * use.made
    # the first of three layers is 1x1 and comes before the stride
    places = [use.given if len(layer) == 3 and number == 0 else use.made for number in range(len(layer))]
    sizes = [sum(tensor.numel() for tensor in part.parameters() if tensor.ndim > 1) for part in layer]
    return sum(size * place for size, place in zip(sizes, places, strict=True))


def spectrum(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squared singular values of a matrix (m, n), largest first, and its left singular vectors (m, m).

    Both are float64, from the eigenvalues of the matrix times its transpose: for a wide matrix that is many times
    faster than its singular value decomposition, and as exact as weights in float32.
    """
    wide = matrix.detach().double()
    squares, vectors = torch.linalg.eigh(wide @ wide.T)
    return squares.flip(0).clamp_min(0), vectors.flip(1)


def rank_of_energy(squares: Tensor, energy: float) -> int:
    """Return the number of squared singular values, largest first, that make up this share of their sum; at least 1."""
    kept = squares.cumsum(0)
    return min(len(squares), int((kept < energy * kept[-1]).sum()) + 1)


def matrix_of(layer: WeightedLayer) -> Tensor:
    """Return a layer's weights as a matrix, one row for each output."""
    return layer.weight.detach().flatten(1)


def unfolded(weight: Tensor) -> Tensor:
    """Return weights (O, I, h, w) as a matrix, one row for each input."""
    return weight.detach().transpose(0, 1).flatten(1)


def svd_chain(layer: WeightedLayer, rank: int, decomposed: tuple[Tensor, Tensor] | None = None) -> Chain:
    """Return two layers: a copy of the layer with ``rank`` outputs, then a matrix from these to its outputs.

    Their product is the best approximation of this rank. Each is scaled by the square root of the singular values, so
    that training changes both equally (Khodak et al., ICLR 2021, arXiv:2105.01029).

    Args:
        layer: a convolution of one group, or a linear layer.
        rank: 1 to the smaller side of its matrix.
        decomposed: spectrum of the matrix; computed if None.
    """
    squares, vectors = decomposed or spectrum(matrix_of(layer))
    basis = vectors[:, :rank]
    scale = squares[:rank].pow(0.25)
    scale = torch.where(squares[:rank] > _ZERO * squares[0], scale, torch.ones_like(scale))
    first = (basis.T @ matrix_of(layer).double()) / scale[:, None]
    second = basis * scale
    if isinstance(layer, nn.Linear):
        return Chain(_linear(layer, first, None), _linear(layer, second, layer.bias))
    first = first.reshape(rank, *layer.weight.shape[1:])
    return Chain(_convolution(layer, first, None, spatial=True), _pointwise(layer, second, layer.bias))


def tucker(weight: Tensor, outer: int, inner: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return bases of the outputs (O, outer) and of the inputs (I, inner), and the core (outer, inner, h, w).

    This is a truncated higher-order SVD, improved by higher-order orthogonal iteration (De Lathauwer et al., 2000).

    Args:
        weight: (O, I, h, w).
        outer: rank of the outputs.
        inner: rank of the inputs.
    """
    full = weight.detach().double()
    inputs = spectrum(unfolded(full))[1][:, :inner]
    for _ in range(SWEEPS):
        narrow = torch.einsum("oihw,ir->orhw", full, inputs)
        outputs = spectrum(narrow.flatten(1))[1][:, :outer]
        narrow = torch.einsum("oihw,or->rihw", full, outputs)
        inputs = spectrum(unfolded(narrow))[1][:, :inner]
    return outputs, inputs, torch.einsum("oihw,or,is->rshw", full, outputs, inputs)


def tucker_chain(layer: nn.Conv2d, outer: int, inner: int) -> Chain:
    """Return three convolutions: 1x1 to ``inner`` channels, the layer's kernel to ``outer``, 1x1 to the outputs."""
    outputs, inputs, core = tucker(layer.weight, outer, inner)
    return Chain(
        _pointwise(layer, inputs.T, None),
        _convolution(layer, core, None, spatial=True),
        _pointwise(layer, outputs, layer.bias),
    )


def _linear(like: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    return _filled(made, like, weight, bias)


def _pointwise(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    return _convolution(like, weight[:, :, None, None], bias, spatial=False)


def _convolution(like: nn.Conv2d, weight: Tensor, bias: Tensor | None, *, spatial: bool) -> nn.Conv2d:
    """Return a convolution with these weights; a spatial one has the stride, padding and dilation of ``like``."""
    outputs, inputs, *kernel = weight.shape
    form: dict[str, Any] = {name: getattr(like, name) for name in ("stride", "padding", "dilation")} if spatial else {}
    made = nn.Conv2d(inputs, outputs, tuple(kernel), bias=bias is not None, device="meta", **form)  # type: ignore[arg-type]
    return _filled(made, like, weight, bias)


def _filled(made: L, like: WeightedLayer, weight: Tensor, bias: Tensor | None) -> L:
    """Set the weights and the bias of a layer; they are trained if those of ``like`` are."""
    trained = like.weight.requires_grad
    made.weight = nn.Parameter(weight.to(like.weight.dtype).contiguous(), requires_grad=trained)
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return made
