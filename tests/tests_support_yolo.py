"""An untrained YOLO in an artefact, for tests that look at what is found and not at how well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from paretune.config.recipe import Recipe
from paretune.core.model import Model
from paretune.core.types import InputSize
from paretune.detectors.yolox.detector import Yolo
from paretune.runtimes.artefact_writer import write_artefact

DETECTOR = Yolo(depthwise=False, width=0.0625)


def yolo_artefact(folder: Path, classes: Sequence[str], *, sure: bool = True) -> Path:
    """Write the artefact of a YOLO for eager and 64 x 64 pixels, sure of what it sees if asked; returns its folder."""
    torch.manual_seed(0)
    network = DETECTOR.build(len(classes)).eval()
    if sure:
        with torch.no_grad():
            for layer in DETECTOR.protected(network):
                layer.weight.mul_(30)
                layer.bias.fill_(2)
    recipe = Recipe.model_validate({"input_size": "64", "runtime": "eager"})
    model = Model(network, None, InputSize(64, 64), params=1, flops=1)
    options = {"runtime": recipe.runtime, "recipe_tree": recipe.tree(), "classes": tuple(classes)}
    return write_artefact(folder, model, detector=DETECTOR, **options).folder
