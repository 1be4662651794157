"""Builds an artefact from a trained network by the steps of a recipe."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.compression.base import Context, with_past_steps
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.storage.artefact import MANIFEST, Artefact
from paretune.system.device_lock import shared_device

if TYPE_CHECKING:
    from torch import nn

    from paretune.runtimes.artefact_writer import FloatNetwork


TRAINED = "trained"
"""Folder of the float network of a trial that failed after training, an artefact of runtime eager."""


def _untimed(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class InitialArtefactNetwork:
    """A trained network on disk."""

    folder: Path
    """Weights and structure."""
    steps: tuple[dict[str, Any], ...] = ()
    """Steps already applied to it, as they are written; later steps take them into account."""
    notes: tuple[str, ...] = ()
    """Notes of these steps."""


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
    stage: Callable[[str], AbstractContextManager[None]] = _untimed,
    *,
    idle: bool = True,
    keep: Path | None = None,
) -> BuildResult:
    """Apply a recipe's steps to a network and write the artefact, whole or not at all.

    Args:
        start: the network.
        recipe: steps, input size and runtime.
        context: what the steps may use.
        folder: of the artefact; an existing one is replaced.
        stage: returns a block around each stage, given its name.
        idle: whether a step may change nothing, which in a sweep would repeat another trial.
        keep: folder for the float network as an artefact of runtime eager, written if something fails after a step
            that trained; None keeps nothing.

    Raises:
        UserError: there is no network, a step found a mistake of the user, or a step changed nothing.
        FloatingPointError: a training diverged.
        RuntimeError: a step failed.
    """
    from paretune.networks.network_files import count, load_network
    from paretune.runtimes.artefact_writer import FloatNetwork, write_artefact

    with stage("load"):
        network = load_network(context.detector, len(context.data.classes), start.folder)
        params, flops = count(network, recipe.size)
    model = with_past_steps(Model(network, None, recipe.size, (), start.notes, params, flops), start.steps)
    tree = recipe.tree()
    before, changed, trained = FloatNetwork(network, start.steps, start.notes), False, False
    try:
        for number, step in enumerate(recipe.chain, start=1):
            context.progress(step.name)
            changed = changed or step.final or model.file is not None
            with stage(step.name), nullcontext() if step.locks else shared_device("cpu"):
                model = step.apply(model, context)
            if not idle:
                _refuse_unchanged(model)
            if model.network is not None and not changed:
                before = FloatNetwork(model.network, (*start.steps, *tree["steps"][:number]), model.notes)
                trained = trained or step.trains
        artefact = write_artefact(
            folder,
            model,
            detector=context.detector,
            runtime=recipe.runtime,
            recipe_tree={**tree, "steps": [*start.steps, *tree["steps"]]},
            classes=context.data.classes,
            thresholds=context.thresholds,
            seed=context.seed,
            before=None if model.network is before.network else before,
        )
    except Exception:
        if keep is not None and trained:
            _keep(before, recipe, context, keep)
        raise
    return BuildResult(artefact, before.network, changed)


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


def _refuse_unchanged(model: Model) -> None:
    """Raise a UserError if the last step changed nothing: the recipe without it is that of another trial."""
    if not model.changed:
        raise UserError(f"refused: {model.notes[-1]}; without it the recipe is another trial's")
