"""Layers that replace a network's own after compression, listed in the structure manifest.

A layer of this kind describes itself as plain data, and can be made again from that, empty: its tensors
come with the weights. No code is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import nn

from paretune.core.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Mapping


@runtime_checkable
class Replacement(Protocol):
    """A module in place of another, beside being an ``nn.Module``."""

    kind: str
    """Row of the table."""

    def fields(self) -> dict[str, Any]:
        """Return all but the tensors, as plain data."""

    @classmethod
    def empty(cls, fields: Mapping[str, Any]) -> nn.Module:
        """Make one of these fields whose tensors are still to be loaded.

        Raises:
            KeyError: a field is missing.
            TypeError: a field is of another type.
            ValueError: a field has an impossible value.
        """


LARGEST = 2**24
"""What is counted in a manifest is never more."""

REPLACEMENTS: Registry[Any] = Registry(
    "replacement",
    {
        "chain": "paretune.networks.layer_chain:Chain",
        "int8_conv2d": "paretune.networks.int8_layers:Int8Conv2d",
        "int8_linear": "paretune.networks.int8_layers:Int8Linear",
        "nothing": "paretune.networks.layer_chain:FoldedBatchNorm",
    },
)


def replaced(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Return kind and fields of every layer that stands in place of another, by its name in the network."""
    return {
        name: {"kind": module.kind, **module.fields()}
        for name, module in network.named_modules()
        if isinstance(module, Replacement)
    }


def check_replacements(network: nn.Module, before: nn.Module | None) -> None:
    """Check that every new layer of a compressed network can be saved and loaded again.

    Args:
        network: compressed.
        before: the network that it was made from; layers of its classes are not new.

    Raises:
        RuntimeError: a layer's class does not implement ``Replacement``, or its kind is missing in the table.
    """
    known = {type(module) for module in (before or network).modules()}
    inner = {id(part) for module in network.modules() if isinstance(module, Replacement) for part in module.modules()}
    for name, module in network.named_modules():
        layer = f"layer {name!r} is now a {type(module).__name__}"
        if isinstance(module, Replacement):
            if module.kind not in REPLACEMENTS.rows:
                raise RuntimeError(
                    f"{layer} of kind {module.kind!r}, which no saved network could be loaded with: add the class to "
                    "the entry point group paretune.replacement (inside Paretune: to REPLACEMENTS)"
                )
        elif type(module) not in known and id(module) not in inner:
            raise RuntimeError(
                f"{layer}, which no saved network could be loaded with: the class has to implement "
                "paretune.networks.replacement_layers.Replacement (kind, fields() and empty())"
            )


def replace_layers(network: nn.Module, saved: Mapping[str, Mapping[str, Any]]) -> None:
    """Put layers without tensors in place of the network's own.

    Raises:
        ValueError: the manifest's fields are not a layer's, or there is no such kind.
        AttributeError: the network has no layer of that name.
    """
    for name in sorted(saved, key=lambda name: name.count(".")):  # what holds others comes before them
        network.get_submodule(name)
        try:
            made = made_of(saved[name])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"layer {name!r}: {reason}") from error
        network.set_submodule(name, made)


def made_of(body: Mapping[str, Any]) -> nn.Module:
    """Make a layer without tensors from its kind and fields.

    Raises:
        KeyError, TypeError, ValueError: the fields are not a layer's, or there is no such kind.
    """
    kind = body["kind"]
    if kind not in REPLACEMENTS.rows:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(REPLACEMENTS.names)}")
    made: nn.Module = REPLACEMENTS.load(kind).empty({key: value for key, value in body.items() if key != "kind"})
    return made


def whole_number(value: Any, what: str, least: int = 1) -> int:
    """Return a number of a manifest that counts channels, pixels and the like.

    Raises:
        ValueError: not a whole number, or out of all bounds: nobody shall ask for the memory.
    """
    if type(value) is not int or not least <= value <= LARGEST:  # true is an int too
        raise ValueError(f"{what} is {value!r}, expected a whole number from {least} to {LARGEST}")
    return value
