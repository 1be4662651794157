"""Quantization-aware training: layers compute with weights and inputs rounded like INT8.

Jacob et al., CVPR 2018 (arXiv:1712.05877), section 3: rounding in the forward pass, straight-through gradients in the
backward pass. Weights are rounded for each output channel, so that the following batch norm, which scales channels,
can be folded later without another rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from paretune.core.types import InputSize, Split
from paretune.detectors.base import Detector
from paretune.training.validation import detect

IMAGES = 16
"""Number of training images that the first ranges are measured on."""
_UNSIGNED = (0, 255)
"""Smallest and largest input in units of its scale."""
_SIGNED = (-128, 127)
_SHARE = 0.05
"""Share of a batch in the moving range of a layer's inputs."""
_SMALLEST = 1e-12
"""Smallest scale, for weights that are all zero."""


class _Rounding(nn.Module):
    """Common part of both layers; a float layer becomes one in place and keeps its parameters."""

    input_range: Tensor
    """Smallest input, at most 0, and largest input, at least 0, (2,)."""
    largest: int
    """Largest weight in units of its scale."""
    signed: bool
    """True if inputs are rounded symmetrically about 0, which halves the steps for positive inputs."""
    measuring: bool
    """True if inputs are measured and not rounded yet."""

    @torch.no_grad()
    def _update_range(self, x: Tensor) -> None:
        low, high = x.detach().float().aminmax()
        batch_range = torch.stack([low.clamp(max=0), high.clamp(min=0)])
        if self.measuring:
            self.input_range[0] = torch.minimum(self.input_range[0], batch_range[0])
            self.input_range[1] = torch.maximum(self.input_range[1], batch_range[1])
        else:
            self.input_range.lerp_(batch_range, _SHARE)

    def rounded_input(self, x: Tensor) -> Tensor:
        """Return inputs rounded to the 256 values of the range, which moves with the inputs in training."""
        if self.training or self.measuring:
            self._update_range(x)
        if self.measuring:
            return x
        low, high = self.input_range
        first, last = _SIGNED if self.signed else _UNSIGNED
        span = torch.maximum(-low, high) if self.signed else high - low
        scale = (span / last).clamp(min=_SMALLEST)
        zero = torch.zeros_like(scale) if self.signed else (-low / scale).round()
        made: Tensor = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero.to(torch.int32), first, last)
        return made

    def rounded_weight(self, weight: Tensor) -> Tensor:
        """Return weights rounded to multiples of each output channel's scale."""
        if self.measuring:
            return weight
        scale = (weight.detach().flatten(1).abs().amax(1) / self.largest).clamp(min=_SMALLEST)
        zeros = torch.zeros_like(scale, dtype=torch.int32)
        made: Tensor = torch.fake_quantize_per_channel_affine(weight, scale, zeros, 0, -self.largest, self.largest)
        return made


class _Conv2d(_Rounding, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self._conv_forward(self.rounded_input(x), self.rounded_weight(self.weight), self.bias)
        return made


class _Linear(_Rounding, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.rounded_input(x), self.rounded_weight(self.weight), self.bias)


_ROUNDING: dict[type[nn.Module], type[_Rounding]] = {nn.Conv2d: _Conv2d, nn.Linear: _Linear}


def with_rounding(
    network: nn.Module, detector: Detector, bits: int, split: Split, size: InputSize, *, signed: bool = False
) -> nn.Module:
    """Make the layers of a network round like INT8 in place, and return the network.

    The layers whose outputs are boxes and scores stay in float, as in the step ``quantize``.

    Args:
        network: of the detector, float, on the CPU.
        detector: of the network.
        bits: bits of a weight, 2 to 8.
        split: training images, of which the first ones give the initial ranges.
        size: of the network's input.
        signed: inputs of layers are signed and symmetric, as for TensorRT, not unsigned.
    """
    outputs = {id(module) for module in detector.protected(network)}
    for layer in network.modules():
        if type(layer) in _ROUNDING and id(layer) not in outputs:
            layer.__class__ = _ROUNDING[type(layer)]
            layer.register_buffer("input_range", torch.zeros(2))
    layers = [layer for layer in network.modules() if isinstance(layer, _Rounding)]
    for layer in layers:
        layer.largest, layer.signed = 2 ** (bits - 1) - 1, signed
    training = network.training
    with _measuring(layers):
        detect(network.eval(), detector, split, size, range(min(IMAGES, len(split))))
    network.train(training)
    for layer in layers:
        if not layer.input_range.any():  # the layer never runs
            _plain(layer)
    return network


def without_rounding(network: nn.Module) -> nn.Module:
    """Turn the layers of ``with_rounding`` back into float layers in place, and return the network."""
    for layer in network.modules():
        if isinstance(layer, _Rounding):
            _plain(layer)
    return network


def _plain(layer: _Rounding) -> None:
    layer.__class__ = {rounding: kind for kind, rounding in _ROUNDING.items()}[type(layer)]  # type: ignore[assignment]
    del layer.input_range, layer.largest, layer.signed, layer.measuring


@contextmanager
def _measuring(layers: Sequence[_Rounding]) -> Iterator[None]:
    for layer in layers:
        layer.measuring = True
    try:
        yield
    finally:
        for layer in layers:
            layer.measuring = False
