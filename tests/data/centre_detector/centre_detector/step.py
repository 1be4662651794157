"""Weights with fewer bits behind the point, as some accelerators store them."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.core.model import Model


class Shorten(Step):
    """Round every weight to so many bits of its mantissa."""

    name: ClassVar[str] = "shorten"

    bits: int = Field(default=8, ge=1, le=24)
    """Bits that are kept; a float has 24."""

    def apply(self, model: Model, context: Context) -> Model:
        """Round the weights of a copy."""
        import torch

        from paretune.networks.network_files import copy_network

        assert model.network is not None
        network, changed = copy_network(model.network).eval(), False
        with torch.no_grad():
            for parameter in network.parameters():
                mantissa, exponent = torch.frexp(parameter)
                rounded = torch.ldexp((mantissa * 2**self.bits).round() / 2**self.bits, exponent)
                changed = changed or not torch.equal(rounded, parameter)
                parameter.copy_(rounded)
        context.progress(f"shorten: {self.bits} bits")
        done = replace(model, network=network, history=(*model.history, self.name))
        return done if changed else done.noted("shorten changed nothing: all weights have so few bits")
