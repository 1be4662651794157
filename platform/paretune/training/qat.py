"""Quantization-aware training: layers compute with weights and inputs as INT8 will round them.

Jacob et al., CVPR 2018 (arXiv:1712.05877), section 3: rounding in the forward pass, straight through in the backward
one. Weights are rounded for each output channel, so that a batch norm behind, which scales channels, can be folded in
later without changing what was learnt.
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
"""Training images that the first ranges are taken from."""
_UNSIGNED = (0, 255)
"""Smallest and largest input in units of its scale."""
_SIGNED = (-128, 127)
_SHARE = 0.05
"""Of a batch in the range of a layer's inputs."""
_SMALLEST = 1e-12
"""A scale: of weights that are all zero."""


class _Rounding(nn.Module):
    """What both layers share; made of a float layer in place, whose parameters and their names stay."""

    input_range: Tensor
    """Smallest and largest input, (2,); 0 lies in it."""
    largest: int
    """A weight in units of its scale."""
    signed: bool
    """Whether inputs are rounded symmetric about 0: half of the steps, where nothing is below it."""
    seeing: bool
    """Whether inputs are looked at and not rounded yet."""

    @torch.no_grad()
    def _look(self, x: Tensor) -> None:
        low, high = x.detach().float().aminmax()
        found = torch.stack([low.clamp(max=0), high.clamp(min=0)])
        if self.seeing:
            self.input_range[0] = torch.minimum(self.input_range[0], found[0])
            self.input_range[1] = torch.maximum(self.input_range[1], found[1])
        else:
            self.input_range.lerp_(found, _SHARE)

    def rounded_input(self, x: Tensor) -> Tensor:
        """Round to the 256 values of the range; in training the range moves with the inputs."""
        if self.training or self.seeing:
            self._look(x)
        if self.seeing:
            return x
        low, high = self.input_range
        first, last = _SIGNED if self.signed else _UNSIGNED
        span = torch.maximum(-low, high) if self.signed else high - low
        scale = (span / last).clamp(min=_SMALLEST)
        zero = torch.zeros_like(scale) if self.signed else (-low / scale).round()
        made: Tensor = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero.to(torch.int32), first, last)
        return made

    def rounded_weight(self, weight: Tensor) -> Tensor:
        """Round every output channel to multiples of its largest weight's share."""
        if self.seeing:
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
    """Let a network compute as its INT8 form will; it is changed, and returned.

    The layers that make boxes and scores stay as they are, as the step ``quantize`` leaves them.

    Args:
        network: of the detector, float, on the CPU.
        detector: whose network it is.
        bits: of a weight, 2 to 8.
        split: training images; the first ones tell the ranges to begin with.
        size: of the network's input.
        signed: inputs of layers are signed and symmetric, as TensorRT reads them, not unsigned.
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
    with _seeing(layers):
        detect(network.eval(), detector, split, size, range(min(IMAGES, len(split))))
    network.train(training)
    for layer in layers:
        if not layer.input_range.any():  # it never runs
            _plain(layer)
    return network


def without_rounding(network: nn.Module) -> nn.Module:
    """Make float layers again of those that ``with_rounding`` has changed; the network is changed, and returned."""
    for layer in network.modules():
        if isinstance(layer, _Rounding):
            _plain(layer)
    return network


def _plain(layer: _Rounding) -> None:
    layer.__class__ = {rounding: kind for kind, rounding in _ROUNDING.items()}[type(layer)]  # type: ignore[assignment]
    del layer.input_range, layer.largest, layer.signed, layer.seeing


@contextmanager
def _seeing(layers: Sequence[_Rounding]) -> Iterator[None]:
    for layer in layers:
        layer.seeing = True
    try:
        yield
    finally:
        for layer in layers:
            layer.seeing = False
