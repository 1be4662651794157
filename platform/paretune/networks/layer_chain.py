"""A chain of small layers in place of a large one: what low-rank factorization makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from paretune.networks.replacement_layers import Replacement, made_of, whole_number

LONGEST = 16
"""Layers of one chain in a manifest."""
_PAIRS = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
"""Pairs of numbers that a convolution has, and the least they may be."""


class Chain(nn.Sequential):
    """Convolutions or linear layers, one after the other."""

    kind: ClassVar[str] = "chain"

    def fields(self) -> dict[str, Any]:
        """Return the form of every layer."""
        return {"layers": [_form(layer) for layer in self]}

    @classmethod
    def empty(cls, fields: Mapping[str, Any]) -> Chain:
        """Make the layers; their weights are to be loaded.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is of another type.
            ValueError: no layers or too many, or none of the kinds known, or an impossible number.
        """
        forms: Sequence[Mapping[str, Any]] = fields["layers"]
        if not 1 <= len(forms) <= LONGEST:
            raise ValueError(f"a chain of {len(forms)} layers, expected 1 to {LONGEST}")
        return cls(*(_made(form) for form in forms))


class FoldedBatchNorm(nn.Identity):
    """What is left of a batch norm that was folded into the convolution before it."""

    kind: ClassVar[str] = "nothing"

    def fields(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    @classmethod
    def empty(cls, fields: Mapping[str, Any]) -> FoldedBatchNorm:
        """Make one.

        Raises:
            ValueError: there are fields.
        """
        if fields:
            raise ValueError(f"nothing has no fields, and {', '.join(fields)} are given")
        return cls()


def _form(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, Replacement):
        return {"kind": layer.kind, **layer.fields()}
    if isinstance(layer, nn.Linear):
        return {"linear": [layer.in_features, layer.out_features], "bias": layer.bias is not None}
    if isinstance(layer, nn.Conv2d):
        pairs = {name: list(getattr(layer, name)) for name in _PAIRS}
        channels = [layer.in_channels, layer.out_channels]
        return {"conv2d": channels, **pairs, "groups": layer.groups, "bias": layer.bias is not None}
    raise TypeError(f"a chain holds convolutions and linear layers, not {type(layer).__name__}")


def _made(form: Mapping[str, Any]) -> nn.Module:
    """Return a layer without memory for its tensors."""
    if "kind" in form:
        return made_of(form)
    if not {"conv2d", "linear"} & set(form):
        raise ValueError(f"a layer of a chain is told as {', '.join(form)}; conv2d, linear or kind is expected")
    if not isinstance(form["bias"], bool):
        raise TypeError(f"bias is {form['bias']!r}, expected true or false")
    if "linear" in form:
        return nn.Linear(*_pair(form, "linear", 1), bias=form["bias"], device="meta")
    pairs = {name: _pair(form, name, least) for name, least in _PAIRS.items()}
    groups = whole_number(form["groups"], "groups")
    return nn.Conv2d(*_pair(form, "conv2d", 1), **pairs, groups=groups, bias=form["bias"], device="meta")  # type: ignore[arg-type]


def _pair(form: Mapping[str, Any], name: str, least: int) -> tuple[int, int]:
    numbers = form[name]
    if not isinstance(numbers, list) or len(numbers) != 2:
        raise ValueError(f"{name} is {numbers!r}, expected two numbers")
    return whole_number(numbers[0], name, least), whole_number(numbers[1], name, least)
