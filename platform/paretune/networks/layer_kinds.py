"""The kinds of layers that are known by their channels: a new row is a kind that can be pruned, counted and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer with channels."""

    name: str
    """Its name in ``structure.json``."""
    layer: type[nn.Module]
    counts: tuple[str, ...]
    """Attributes that count channels: those that pruning changes."""
    shapes: Callable[[Any], Shapes]
    """Layer → shapes of its parameters and buffers, by its counts."""
    weighted: bool = False
    """True if it multiplies its inputs by weights: only such layers cost operations and read channels."""


def _convolution(layer: nn.Conv2d) -> Shapes:
    weight = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    return {"weight": weight, "bias": (layer.out_channels,)}


def _transposed(layer: nn.ConvTranspose2d) -> Shapes:
    weight = (layer.in_channels, layer.out_channels // layer.groups, *layer.kernel_size)
    return {"weight": weight, "bias": (layer.out_channels,)}


_COUNTS = ("in_channels", "out_channels", "groups")
LAYER_KINDS = (
    LayerKind("conv2d", nn.Conv2d, _COUNTS, _convolution, weighted=True),
    LayerKind("conv_transpose2d", nn.ConvTranspose2d, _COUNTS, _transposed, weighted=True),
    LayerKind(
        "linear",
        nn.Linear,
        ("in_features", "out_features"),
        lambda layer: {"weight": (layer.out_features, layer.in_features), "bias": (layer.out_features,)},
        weighted=True,
    ),
    LayerKind(
        "batchnorm2d",
        nn.BatchNorm2d,
        ("num_features",),
        lambda layer: dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (layer.num_features,)),
    ),
    LayerKind(
        "groupnorm",
        nn.GroupNorm,
        ("num_channels", "num_groups"),
        lambda layer: dict.fromkeys(("weight", "bias"), (layer.num_channels,)),
    ),
)
KNOWN_LAYERS: tuple[type[nn.Module], ...] = tuple(kind.layer for kind in LAYER_KINDS)
WEIGHTED_LAYERS: tuple[type[nn.Module], ...] = tuple(kind.layer for kind in LAYER_KINDS if kind.weighted)


def kind_of(module: nn.Module) -> LayerKind | None:
    """Return the kind of a layer; None for a module that is none of the table's."""
    return next((kind for kind in LAYER_KINDS if isinstance(module, kind.layer)), None)


def layer_flops(layer: nn.Module, inputs: Tensor, output: Tensor) -> int:
    """Return the floating-point operations of one call of a weighted layer, 2 x multiply-adds.

    Each value of the output, or of the input where the convolution is transposed, meets the weights of one channel.
    """
    values = inputs if isinstance(layer, nn.ConvTranspose2d) else output
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return 2 * values.numel() * weight[0].numel()


def summed_by_input(layer: nn.Module, values: Tensor) -> Tensor:
    """Return values of the shape of a weighted layer's weight, summed over what reads each input, (inputs,)."""
    if isinstance(layer, nn.ConvTranspose2d):
        return values.flatten(1).sum(1)
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return values.reshape(groups, len(values) // groups, values.shape[1], -1).sum((1, 3)).flatten()


def summed_by_output(layer: nn.Module, values: Tensor) -> Tensor:
    """Return values of the shape of a layer's weight, summed over what makes each output, (outputs,)."""
    if isinstance(layer, nn.ConvTranspose2d):
        return values.reshape(layer.groups, len(values) // layer.groups, values.shape[1], -1).sum((1, 3)).flatten()
    return values.reshape(len(values), -1).sum(1)
