"""One trained network through one recipe, without a sweep."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from paretune.compression.base import Context, Step
from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError, one_line
from paretune.core.target import Target
from paretune.core.types import Data
from paretune.data.left_out import lines_of, record_of, refuse_gaps
from paretune.storage.artefact import MANIFEST, Artefact
from paretune.storage.atomic_files import write_text
from paretune.system.device_lock import shared_device
from paretune.training.history import TrainingStep, no_step
from paretune.workflows.accuracy_change import (
    SPLITS,
    AccuracyChange,
    Drop,
    Reference,
    accuracy_change,
    check_judgeable,
)
from paretune.workflows.build_artefact import build
from paretune.workflows.recipe_source import RecipeImages, RecipeSource
from paretune.workflows.trial_context import step_context, with_threads

if TYPE_CHECKING:
    from paretune.runtimes.predictor import Predictor

ACCURACY = Path("evaluation") / "accuracy.json"
"""File in an artefact's folder: its accuracy beside its source's; not counted in the artefact's size."""


@dataclass(frozen=True)
class OptimizationOptions:
    """Options of an optimization."""

    seed: int = 0
    """Seed of everything random."""
    target: Target = field(default_factory=Target)
    """Target of the artefact."""
    max_drop: float | None = None
    """Largest allowed loss of map, 0 to 1; an artefact that loses more is kept. None judges no loss."""
    against: Reference | None = None
    """What the accuracy is compared with; None takes the source on its own runtime."""
    splits: tuple[str, ...] = SPLITS
    """Splits on which it is evaluated, where the dataset has them; ``val`` is one of them."""


@dataclass(frozen=True)
class OptimizationResult:
    """An artefact and its accuracy beside its source's."""

    artefact: Artefact
    accuracy: AccuracyChange
    max_drop: float | None = None
    """Largest allowed loss of map; None judges no loss."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Unused parts of the dataset, as `left_out.record_of` returns them."""

    @property
    def drop(self) -> Drop | None:
        """Return the loss with its limit; None if there is no limit."""
        return None if self.max_drop is None else Drop(self.max_drop, self.accuracy.decisive)

    def judged(self) -> dict[str, Any]:
        """Return accuracy and loss as plain data."""
        drop = None if self.drop is None else self.drop.tree()
        return {**self.accuracy.tree(), "max_drop": drop, "data": dict(self.data)}

    def tree(self) -> dict[str, Any]:
        """Return the result as plain data."""
        artefact = self.artefact
        return {
            "artefact": str(artefact.folder),
            "format": artefact.format,
            "recipe": artefact.recipe,
            "size_mib": artefact.size_mib,
            "params": artefact.params,
            "flops": artefact.flops,
            "notes": list(artefact.notes),
            "accuracy": self.judged(),
        }


def optimize(
    source: RecipeSource,
    recipe: Recipe,
    images: RecipeImages,
    folder: Path,
    options: OptimizationOptions = OptimizationOptions(),
    progress: Callable[[str], None] = lambda _: None,
    on_step: Callable[[TrainingStep], None] = no_step,
) -> OptimizationResult:
    """Take a network through a recipe, write the artefact after a parity check, and evaluate it.

    Args:
        source: the network.
        recipe: steps, input size and runtime.
        images: of the network's classes.
        folder: new folder of the artefact, written whole or not at all.
        options: seed, target, allowed loss.
        progress: called with a line for each step and epoch.
        on_step: called after each step of a training.

    Raises:
        UserError: the folder exists, the images have other classes, lack a large part of themselves or hold no
            objects, there is no teacher, a step failed, or the artefact's outputs differ from its network's.
    """
    target = options.target
    _refuse(source, recipe, folder, target)
    data = images.dataset.open(images.cache)
    if data.classes != source.classes:
        raise UserError(f"the images are of {', '.join(data.classes)}; the network finds {', '.join(source.classes)}")
    if any(_trains(step) for step in recipe.steps):
        refuse_gaps(data, images.dataset)
    for line in lines_of(data):
        progress(line)
    if options.max_drop is not None:
        check_judgeable(data.splits, options.max_drop)
    if source.left:
        progress(f"starting from the float network; {', '.join(source.left)} is not applied again unless you name it")
    with _workdir(folder) as name:
        workdir = Path(name)
        context = _context(source, recipe, images, data, workdir, target)
        context = replace(context, seed=options.seed, progress=progress, on_step=on_step)
        built, predictor = _built(source, recipe, context)
        artefact = replace(built, folder=folder)
        built.folder.rename(folder)  # before it is evaluated: whoever stops that keeps what was made
        start, limit = workdir / "start", source.thresholds.limit
        against = options.against or Reference(lambda: _start(source, target, workdir, progress), start, limit)
        try:
            with shared_device(target.device):
                splits = {name: split for name, split in data.splits.items() if name in options.splits}
                accuracy = accuracy_change(predictor, against, splits, progress)
        except KeyboardInterrupt:
            progress(f"{folder} is made, its accuracy was not evaluated")
            raise
    result = OptimizationResult(artefact, accuracy, options.max_drop, record_of(data))
    write_text(folder / ACCURACY, json.dumps(result.judged(), indent=1))
    return result


def _refuse(source: RecipeSource, recipe: Recipe, folder: Path, target: Target) -> None:
    """Refuse what is certain to fail.

    Raises:
        UserError: the folder exists, the runtime or a step does not run on the target, or a teacher is missing.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder with --out")
    if reason := recipe.runtime.unsupported_reason(target) or recipe.unsupported_reason(target):
        raise UserError(reason)
    if source.uncompressed is None and any(isinstance(step, Finetune) and step.lacks_teacher for step in recipe.steps):
        where = f"{source.folder}: lies in no sweep or training, so nothing tells the network before its steps"
        raise UserError(f"{where}; name its folder as finetune.distill.teacher")


def _context(
    source: RecipeSource, recipe: Recipe, images: RecipeImages, data: Data, workdir: Path, target: Target
) -> Context:
    """Return what the steps may use: they train as those of a trial do."""
    if not images.training.by_ray:  # else each worker has its share of the cores
        images = replace(images, training=with_threads(images.training))
    return step_context(
        recipe,
        images,
        data,
        detector=source.detector,
        baseline=source.uncompressed,
        target=target,
        thresholds=source.thresholds,
        workdir=workdir,
    )


def _built(source: RecipeSource, recipe: Recipe, context: Context) -> tuple[Artefact, Predictor]:
    """Carry out the recipe's steps, load the artefact, and check it against the network it was made from.

    Raises:
        UserError: a step failed, or the artefact's outputs differ from its network's.
    """
    from paretune.runtimes.predictor import load_predictor
    from paretune.verification.parity import verify

    try:
        with _ray(recipe, context):
            built = build(source.start, recipe, context, context.workdir / "artefact")
        with shared_device(context.target.device):
            predictor = load_predictor(built.artefact.folder, context.target)
            parity = verify(predictor, built.network, context.data.splits["val"], changed=built.changed)
    except (FloatingPointError, RuntimeError) as error:
        raise UserError(f"optimize: {one_line(error)}") from error
    context.progress(str(parity))
    return built.artefact, predictor


@contextmanager
def _ray(recipe: Recipe, context: Context) -> Iterator[None]:
    """Run the block in a Ray session if one of the steps trains by Ray Train."""
    if not context.training.by_ray or not any(_trains(step) for step in recipe.steps):
        yield
        return
    from paretune.distributed.ray_session import session, terminated_like_interrupted

    assert context.cache is not None  # noqa: S101 - ``_context`` gives one
    runs = context.cache.parent
    runs.mkdir(parents=True, exist_ok=True)
    with terminated_like_interrupted(), session(runs):
        yield


def _trains(step: Step) -> bool:
    """Return whether a step trains, with as many workers as the baseline."""
    return isinstance(step, Finetune) or (isinstance(step, Prune) and step.rounds > 1 and step.round_epochs > 0)


def _start(
    source: RecipeSource, target: Target, workdir: Path, progress: Callable[[str], None]
) -> tuple[str, Predictor]:
    """Return the source and its name: an artefact on its runtime, or a trained network in eager.

    The float network in an artefact stands in for one that does not run here, which is printed.
    """
    from paretune.core.model import Model
    from paretune.networks.network_files import load_network
    from paretune.runtimes.artefact_writer import write_artefact
    from paretune.runtimes.eager import Eager
    from paretune.runtimes.predictor import check_loadable, load_predictor

    if (source.folder / MANIFEST).is_file():
        try:
            artefact = check_loadable(source.folder, target)
            return f"{source.folder} on {next(iter(artefact.runtime))}", load_predictor(source.folder, target)
        except UserError as error:
            progress(f"the result is compared with the artefact's float network in eager: {error}")
    network = load_network(source.detector, len(source.classes), source.start.folder)
    folder = workdir / "start" / "artefact"
    write_artefact(
        folder,
        Model(network, None, source.size),
        detector=source.detector,
        runtime=Eager(),
        recipe_tree={},
        classes=source.classes,
        thresholds=source.thresholds,
    )
    return f"{source.folder} in eager", load_predictor(folder, target)


def _workdir(folder: Path) -> TemporaryDirectory[str]:
    """Make a temporary folder beside the artefact's.

    Raises:
        UserError: the folder cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot be written ({error.strerror})") from error
