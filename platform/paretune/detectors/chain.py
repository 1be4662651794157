"""A chain of small layers in place of a large one: what low-rank factorization makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import nn

from paretune.detectors.replaced import REPLACEMENTS, Replacement

_PAIRS = ("kernel_size", "stride", "padding", "dilation")


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
            ValueError: no layers, or none of the kinds known.
        """
        forms: Sequence[Mapping[str, Any]] = fields["layers"]
        if not forms:
            raise ValueError("a chain of no layers")
        return cls(*(_made(form) for form in forms))


class Nothing(nn.Identity):
    """What is left of a batch norm that was folded into the convolution before it."""

    kind: ClassVar[str] = "nothing"

    def fields(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    @classmethod
    def empty(cls, fields: Mapping[str, Any]) -> Nothing:
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
    if "kind" in form:
        fields = {key: value for key, value in form.items() if key != "kind"}
        return REPLACEMENTS.load(form["kind"]).empty(fields)  # type: ignore[no-any-return]
    if "linear" in form:
        given, made = form["linear"]
        return nn.Linear(given, made, bias=form["bias"], device="meta")
    given, made = form["conv2d"]
    pairs: dict[str, Any] = {name: tuple(form[name]) for name in _PAIRS}
    return nn.Conv2d(given, made, **pairs, groups=form["groups"], bias=form["bias"], device="meta")
