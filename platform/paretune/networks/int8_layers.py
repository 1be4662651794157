"""Convolutions and linear layers that compute in 8-bit integers, in place of float ones.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018
(arXiv:1712.05877). Inputs are unsigned and affine, weights signed and symmetric, products are added up in 32 bits; the
result is float again, so a layer stands by itself in a network of float ones. oneDNN computes it.

Weights use 7 of the 8 bits. A CPU without VNNI adds two products in 16 bits, into which 2 · 255 · 127 does not fit:
sums would be cut off, silently. 2 · 255 · 63 does, and a network has the same outputs on every CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

LARGEST_WEIGHT = 63
LARGEST_INPUT = 255
PAIRS = ("kernel_size", "stride", "padding", "dilation")
_OUT: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
"""Arguments of oneDNN for the output: float32, no operation after."""
_packed = WeakTensorKeyDictionary()
"""Weight → the same in oneDNN's own order, and the zeros it asks for; made when a layer runs first, never saved."""


class Int8Layer(nn.Module):
    """What both layers share: the tensors, and the range of the input.

    Args:
        fields: the layer's form, ``input_scale`` and ``input_zero_point``: input = scale · (q - zero point).
        shape: of the weight, outputs first.
        device: "meta" for a layer whose tensors are still to be loaded.
    """

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor

    def __init__(self, fields: Mapping[str, Any], shape: Sequence[int], device: str | None = None) -> None:
        super().__init__()
        self._fields = dict(fields)
        self.scale, self.zero_point = float(fields["input_scale"]), int(fields["input_zero_point"])
        if not (self.scale > 0 and 0 <= self.zero_point <= LARGEST_INPUT):
            raise ValueError(f"input scale {self.scale} with zero point {self.zero_point} is no range of 8 bits")
        self.register_buffer("weight", torch.zeros(tuple(shape), dtype=torch.int8, device=device))
        self.register_buffer("weight_scale", torch.ones(shape[0], device=device))
        self.register_buffer("bias", torch.zeros(shape[0], device=device))

    def fields(self) -> dict[str, Any]:
        """Return the form of the layer, and the range of its input."""
        return dict(self._fields)

    def quantized(self, x: Tensor) -> Tensor:
        """Return the nearest of the 256 values of each input, as uint8."""
        shifted = x.float().mul(1 / self.scale).add_(self.zero_point + 0.5)  # the half makes cutting off rounding
        return shifted.clamp_(0, LARGEST_INPUT).to(torch.uint8)


class Int8Conv2d(Int8Layer):
    """A convolution in INT8."""

    kind: ClassVar[str] = "int8_conv2d"

    @classmethod
    def empty(cls, fields: Mapping[str, Any], device: str | None = "meta") -> Int8Conv2d:
        """Make one whose tensors are still to be loaded.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is of another type.
            ValueError: a field has an impossible value.
        """
        given, made = fields["channels"]
        if given % fields["groups"] or made % fields["groups"]:
            raise ValueError(f"{given} and {made} channels are no multiples of {fields['groups']} groups")
        if problem := [name for name in PAIRS if len(fields[name]) != 2]:
            raise ValueError(f"{problem[0]} is {fields[problem[0]]}, expected two numbers")
        return cls(fields, (made, given // fields["groups"], *fields["kernel_size"]), device)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, H', W') for inputs (B, inputs, H, W)."""
        form = self._fields
        how = [*form["stride"], *form["padding"], *form["dilation"], form["groups"]]
        run = _compilable_convolution if torch.compiler.is_compiling() else _convolved
        made = run(self.quantized(x), self.weight, self.weight_scale, self.bias, self.scale, self.zero_point, how)
        return made.to(x.dtype)


class Int8Linear(Int8Layer):
    """A linear layer in INT8."""

    kind: ClassVar[str] = "int8_linear"

    @classmethod
    def empty(cls, fields: Mapping[str, Any], device: str | None = "meta") -> Int8Linear:
        """Make one whose tensors are still to be loaded; raises as ``Int8Conv2d.empty`` does."""
        given, made = fields["channels"]
        return cls(fields, (made, given), device)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) for inputs (..., inputs)."""
        run = _compilable_product if torch.compiler.is_compiling() else _multiplied
        q = self.quantized(x).reshape(-1, x.shape[-1])
        made = run(q, self.weight, self.weight_scale, self.bias, self.scale, self.zero_point)
        return made.to(x.dtype).reshape(*x.shape[:-1], -1)


def is_int8(module: nn.Module) -> bool:
    """Return whether a layer computes in INT8."""
    return isinstance(module, Int8Layer)


def _prepared(weight: Tensor, weight_scale: Tensor, pack: Any, *form: Any) -> tuple[Tensor, Tensor]:
    """Return a weight packed by one of oneDNN's functions with these arguments, and zero points; made once."""
    if weight not in _packed:
        _packed[weight] = pack(weight, *form), torch.zeros_like(weight_scale, dtype=torch.int32)
    packed, zeros = _packed[weight]
    return packed, zeros


def _convolved(
    q: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor,
    scale: float,
    zero_point: int,
    how: Sequence[int],
) -> Tensor:
    """Convolve uint8 (B, inputs, H, W) with int8; returns float32.

    ``how``: stride, padding and dilation, two numbers each, and the number of groups.
    """
    form = _unpacked(how)
    pack = torch.ops.onednn.qconv_prepack
    packed, zeros = _prepared(weight, weight_scale, pack, weight_scale, scale, zero_point, *form, list(q.shape))
    made: Tensor = torch.ops.onednn.qconv_pointwise(
        q, scale, zero_point, packed, weight_scale, zeros, bias, *form, *_OUT
    )
    return made


def _unpacked(how: Sequence[int]) -> tuple[list[int], list[int], list[int], int]:
    return list(how[0:2]), list(how[2:4]), list(how[4:6]), how[6]


def _multiplied(q: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor, scale: float, zero_point: int) -> Tensor:
    """Return the product of uint8 (N, inputs) with int8, in float32."""
    packed, zeros = _prepared(weight, weight_scale, torch.ops.onednn.qlinear_prepack, list(q.shape))
    made: Tensor = torch.ops.onednn.qlinear_pointwise(q, scale, zero_point, packed, weight_scale, zeros, bias, *_OUT)
    return made


@torch.library.custom_op("paretune::int8_convolution", mutates_args=())
def _compilable_convolution(
    q: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor,
    scale: float,
    zero_point: int,
    how: Sequence[int],
) -> Tensor:
    """Return ``_convolved`` as one operator, which a compiler leaves as it is."""
    return _convolved(q, weight, weight_scale, bias, scale, zero_point, how)


@_compilable_convolution.register_fake
def _(
    q: Tensor,
    weight: Tensor,
    weight_scale: Tensor,  # noqa: ARG001 - as the operator has it
    bias: Tensor,
    scale: float,  # noqa: ARG001
    zero_point: int,  # noqa: ARG001
    how: Sequence[int],
) -> Tensor:
    made = nn.functional.conv2d(q.float(), weight.float(), bias, *_unpacked(how))
    return torch.empty_like(made, memory_format=torch.channels_last)


@torch.library.custom_op("paretune::int8_product", mutates_args=())
def _compilable_product(
    q: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor, scale: float, zero_point: int
) -> Tensor:
    """Return ``_multiplied`` as one operator, which a compiler leaves as it is."""
    return _multiplied(q, weight, weight_scale, bias, scale, zero_point)


@_compilable_product.register_fake
def _(
    q: Tensor,
    weight: Tensor,
    weight_scale: Tensor,  # noqa: ARG001 - as the operator has it
    bias: Tensor,
    scale: float,  # noqa: ARG001
    zero_point: int,  # noqa: ARG001
) -> Tensor:
    return nn.functional.linear(q.float(), weight.float(), bias)
