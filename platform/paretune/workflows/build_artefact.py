"""Builds an artefact from a trained network by the steps of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.compression.base import Context
from paretune.config.recipe import Recipe
from paretune.core.model import Model
from paretune.storage.artefact import MANIFEST, Artefact
from paretune.storage.stage_store import StageStore
from paretune.workflows.stages import Stages, TrialStopped
from paretune.workflows.step_chain import InitialArtefactNetwork, StepChain

if TYPE_CHECKING:
    from torch import nn

    from paretune.runtimes.artefact_writer import FloatNetwork


TRAINED = "trained"
"""Folder of the float network of a trial that failed after training, an artefact of runtime eager."""


@dataclass(frozen=True)
class BuildResult:
    """An artefact and the network it was made from."""

    artefact: Artefact
    network: nn.Module
    """The float network before it was exported or quantized, in eval mode on the CPU."""
    changed: bool
    """Whether the artefact differs from ``network`` intentionally: quantized, or clustered after the export."""


def build(
    start: InitialArtefactNetwork,
    recipe: Recipe,
    context: Context,
    folder: Path,
    stages: Stages | None = None,
    *,
    idle: bool = True,
    keep: Path | None = None,
    store: StageStore | None = None,
) -> BuildResult:
    """Apply a recipe's steps to a network and write the artefact, whole or not at all.

    Args:
        start: the network.
        recipe: steps, input size and runtime.
        context: what the steps may use.
        folder: of the artefact; an existing one is replaced.
        stages: of the trial; None times nothing.
        idle: whether a step may change nothing, which in a sweep would repeat another trial.
        keep: folder for the float network as an artefact of runtime eager, written if something fails after a step
            that trained; None keeps nothing.
        store: from which results of steps are taken, and to which new ones are added; None builds everything.

    Raises:
        UserError: there is no network, a step found a mistake of the user, or a step changed nothing.
        FloatingPointError: a training diverged.
        RuntimeError: a step failed.
        TrialStopped: the trial is to end.
    """
    from paretune.runtimes.artefact_writer import write_artefact

    chain = StepChain(start, recipe, context, Stages() if stages is None else stages, store, idle=idle)
    try:
        model = chain.run()
        before = chain.before
        with chain.stages.stage("write"):
            artefact = write_artefact(
                folder,
                model,
                detector=context.detector,
                runtime=recipe.runtime,
                recipe_tree={**recipe.tree(), "steps": [*start.steps, *recipe.tree()["steps"]]},
                classes=context.classes,
                thresholds=context.thresholds,
                seed=context.seed,
                before=None if model.network is before.network else before,
            )
    except Exception as error:
        if keep is not None and chain.trained and not isinstance(error, TrialStopped):
            _keep(chain.before, recipe, context, keep)
        raise
    return BuildResult(artefact, before.network, chain.changed)


def kept_of(folder: Path) -> Path | None:
    """Return the artefact or the trained network in the folder of a failed trial; None if there is neither."""
    places = (folder / name for name in ("artefact", TRAINED))
    return next((place for place in places if (place / MANIFEST).is_file()), None)


def _keep(before: FloatNetwork, recipe: Recipe, context: Context, folder: Path) -> None:
    """Write a float network as an artefact of runtime eager; print a line if that fails too."""
    from paretune.networks.network_files import count
    from paretune.runtimes.artefact_writer import write_artefact
    from paretune.runtimes.eager import Eager

    runtime = Eager()
    try:
        params, flops = count(before.network, recipe.size)
        write_artefact(
            folder,
            Model(before.network, None, recipe.size, (), before.notes, params, flops),
            detector=context.detector,
            runtime=runtime,
            recipe_tree={**recipe.tree(), "steps": list(before.steps), "runtime": runtime.named()},
            classes=context.data.classes,
            thresholds=context.thresholds,
            seed=context.seed,
        )
    except (OSError, RuntimeError, ValueError) as error:  # the disk may be full, which is why we are here
        context.progress(f"the trained network cannot be kept: {error}")
