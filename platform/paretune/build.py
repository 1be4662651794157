"""From a trained network to an artefact: the steps of a recipe, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.compression.base import Context
from paretune.model import Model
from paretune.recipe import Recipe
from paretune.store import Artefact


def _untimed(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Start:
    """A trained network on disk."""

    folder: Path
    """Weights and structure."""
    steps: tuple[dict[str, Any], ...] = ()
    """It has already gone through, as they are written."""
    notes: tuple[str, ...] = ()
    """Of these steps."""


def build(
    start: Start,
    recipe: Recipe,
    context: Context,
    folder: Path,
    stage: Callable[[str], AbstractContextManager[None]] = _untimed,
) -> Artefact:
    """Take a network through a recipe's steps and write the artefact, whole or not at all.

    Args:
        start: the network.
        recipe: what is done to it.
        context: of the steps.
        folder: receives the artefact; one that stands there is replaced.
        stage: entered with the name of each stage while it goes on.

    Raises:
        UserError: no network there, or a mistake of the user's that a step found.
        FloatingPointError: a training diverged.
        RuntimeError: a step failed.
    """
    from paretune.compression.artefact import write_artefact
    from paretune.detectors.structure import count, load_network

    with stage("load"):
        network = load_network(context.detector, len(context.data.classes), start.folder)
        params, flops = count(network, recipe.size)
    model = Model(network, None, recipe.size, notes=start.notes, params=params, flops=flops)
    for step in recipe.chain:
        context.progress(step.name)
        with stage(step.name):
            model = step.apply(model, context)
    tree = recipe.tree()
    return write_artefact(
        folder,
        model,
        detector=context.detector,
        runtime=recipe.runtime,
        recipe_tree={**tree, "steps": [*start.steps, *tree["steps"]]},
        classes=context.data.classes,
    )
