"""Layers whose weights, (outputs, inputs, …), a step may change one by one."""

from __future__ import annotations

from torch import nn

from paretune.detectors.base import Detector

WeightedLayer = nn.Conv2d | nn.Linear


def weighted_layers(network: nn.Module, detector: Detector, *, keep_outputs: bool) -> dict[str, WeightedLayer]:
    """Return convolutions and linear layers by their names.

    Args:
        network: of the detector.
        detector: names its predictors.
        keep_outputs: leave the predictors out.
    """
    left = {id(inner) for module in detector.protected(network) for inner in module.modules()} if keep_outputs else ()
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and id(module) not in left
    }
