"""Takes one trained network through one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.api.inputs import (
    DataSource,
    OnStep,
    Tell,
    images_named,
    missing_as_user_error,
    target_of,
    told,
    training_named,
    written,
)
from paretune.core.errors import UserError

if TYPE_CHECKING:
    from paretune.config.recipe import Recipe
    from paretune.core.yaml_document import Document
    from paretune.workflows.optimize import OptimizationResult


@missing_as_user_error
def optimize(  # noqa: PLR0913 - the options of the command
    source: str | Path,
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    *,
    out: str | Path,
    steps: Sequence[str | Mapping[str, Any]] = (),
    runtime: str | Mapping[str, Any] | None = None,
    input_size: int | str | None = None,
    data: DataSource | None = None,
    format: str | None = None,  # noqa: A002 - of the data
    seed: int = 0,
    max_drop: float | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = False,
    tell: Tell | None = None,
    on_step: OnStep | None = None,
) -> OptimizationResult:
    """Take a trained network through one recipe, and write the artefact.

    Args:
        source: folder of a training, or of an artefact, whose float network is taken.
        recipe: input size, steps and runtime: a file, plain data or a `Recipe`; or
        out: new folder of the artefact.
        steps: the steps in order, each a name or ``{name: fields}``, in place of a recipe.
        runtime: of the result, in place of the recipe's; without a recipe onnxruntime.
        input_size: of the result; None takes the recipe's, or that of the training.
        data: images to train, calibrate and evaluate on; None takes those of the sweep or training around.
        format: of a folder of images; None recognises it by its layout.
        seed: of everything random.
        max_drop: largest allowed loss of map, 0 to 1, for the result's ``drop``; an artefact that loses more is kept.
        device: that the result runs on; None takes that of the sweep or training around, or the CPU.
        threads: of the result on a CPU.
        progress: whether to print a line for each step and epoch.
        tell: function that gets these lines instead.
        on_step: function that is called after each step of a training.

    Raises:
        UserError: a mistake in the recipe or the data, the folder exists, a step failed, or the artefact's outputs
            differ from its network's.

    Example:
        >>> steps = [{"prune": {"ratio": 0.5}}, "finetune"]
        >>> result = paretune.optimize("runs/trainings/first", steps=steps, out="half")
        >>> result.accuracy.decisive
    """
    from paretune.results.folder_claims import claimed
    from paretune.training.history import no_step
    from paretune.workflows.optimize import OptimizationOptions
    from paretune.workflows.optimize import optimize as through_recipe
    from paretune.workflows.recipe_source import images_of, read_recipe, read_source

    if recipe is not None and steps:
        raise UserError("--step: the steps stand in --recipe already; give one of the two")
    if seed < 0:
        raise UserError(f"--seed {seed}: expected 0 or more")
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise UserError(f"--max-drop {max_drop:g}: expected 0 to 1, in map: 0.01 is one point")
    lines, source = told(progress, tell), Path(source)
    with claimed(Path(out)):
        target = target_of([source], device, threads, lines)
        network = read_source(source)
        chosen = read_recipe(recipe_document(recipe, steps, runtime, input_size), network)
        images = images_of(source, images_named(data, format), training_named(data))
        options = OptimizationOptions(seed, target, max_drop)
        return through_recipe(network, chosen, images, Path(out), options, progress=lines, on_step=on_step or no_step)


def recipe_document(
    recipe: str | Path | Mapping[str, Any] | Recipe | None,
    steps: Sequence[str | Mapping[str, Any]],
    runtime: str | Mapping[str, Any] | None,
    input_size: int | str | None,
) -> Document:
    """Return a recipe as a document; the arguments are those of `optimize`.

    Raises:
        UserError: the recipe's file cannot be read.
    """
    from paretune.core.yaml_document import Document, read_yaml

    if recipe is None:
        document = Document("optimize", {"steps": [*steps]}, {})
    elif isinstance(recipe, (str, Path)):
        document = read_yaml(Path(recipe))
    else:
        document = written(recipe if isinstance(recipe, Mapping) else recipe.tree(), "recipe")
    if not isinstance(document.data, dict):
        return document
    data = dict(document.data)
    if runtime or recipe is None:
        data["runtime"] = runtime or "onnxruntime"
    if input_size:
        data["input_size"] = input_size
    return replace(document, data=data)
