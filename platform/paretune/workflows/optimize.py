"""One trained network through one recipe, without a sweep: from its folder to an artefact."""

from __future__ import annotations

import json
import os
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
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import Data
from paretune.data.left_out import lines_of, record_of, refuse_gaps
from paretune.storage.artefact import MANIFEST, Artefact
from paretune.storage.atomic_files import write_text
from paretune.system.device_lock import shared_device
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

if TYPE_CHECKING:
    from paretune.runtimes.predictor import Predictor

ACCURACY = Path("evaluation") / "accuracy.json"
"""File in an artefact's folder of its accuracy beside that of what it was made from; no size counts it."""


@dataclass(frozen=True)
class OptimizationOptions:
    """What is asked of an optimization besides its recipe."""

    seed: int = 0
    """Of everything random."""
    target: Target = field(default_factory=Target)
    """What the artefact is for."""
    max_drop: float | None = None
    """The most of map that may be lost, 0 to 1: the artefact stays when more is; None judges no loss."""
    against: Reference | None = None
    """What the accuracy is compared with; None takes the source, as it is deployed."""
    splits: tuple[str, ...] = SPLITS
    """The splits on which it is evaluated, where the dataset has them; ``val`` is one of them."""


@dataclass(frozen=True)
class OptimizationResult:
    """An artefact, and what it has cost of the accuracy."""

    artefact: Artefact
    accuracy: AccuracyChange
    max_drop: float | None = None
    """The most of map that may be lost; None where nothing was said."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """What of the dataset is not used (`left_out.record_of`)."""

    @property
    def drop(self) -> Drop | None:
        """Return the loss held to what may be lost; None where nothing was said."""
        return None if self.max_drop is None else Drop(self.max_drop, self.accuracy.decisive)

    def judged(self) -> dict[str, Any]:
        """Return the accuracy, and whether too much was lost, as plain data."""
        drop = None if self.drop is None else self.drop.tree()
        return {**self.accuracy.tree(), "max_drop": drop, "data": dict(self.data)}

    def tree(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        made = self.artefact
        return {
            "artefact": str(made.folder),
            "format": made.format,
            "recipe": made.recipe,
            "size_mib": made.size_mib,
            "params": made.params,
            "flops": made.flops,
            "notes": list(made.notes),
            "accuracy": self.judged(),
        }


def optimize(
    source: RecipeSource,
    recipe: Recipe,
    images: RecipeImages,
    folder: Path,
    wanted: OptimizationOptions = OptimizationOptions(),
    progress: Callable[[str], None] = lambda _: None,
) -> OptimizationResult:
    """Take a network through a recipe, write the artefact once it is what it was made from, and evaluate it.

    Args:
        source: the network.
        recipe: what is done to it.
        images: of its classes.
        folder: new one, receives the artefact, whole or not at all.
        wanted: seed, target, the loss that is allowed.
        progress: called with a line for each step and epoch.

    Raises:
        UserError: the folder is there already, the images are of other classes, lack a large part of
            themselves or show nothing that a loss could be
            seen on, there is no teacher, a step failed, or the artefact says something else than the network it was
            made from.
    """
    target = wanted.target
    _refuse(source, recipe, folder, target)
    data = images.dataset.open(images.cache)
    if data.classes != source.classes:
        raise UserError(f"the images are of {', '.join(data.classes)}; the network finds {', '.join(source.classes)}")
    if any(_trains(step) for step in recipe.steps):
        refuse_gaps(data, images.dataset)
    for line in lines_of(data):
        progress(line)
    if wanted.max_drop is not None:
        check_judgeable(data.splits, wanted.max_drop)
    if source.left:
        progress(f"starting from the float network; {', '.join(source.left)} is not applied again unless you name it")
    with _workdir(folder) as made:
        workdir = Path(made)
        context = _context(source, recipe, images, data, workdir, target)
        built, predictor = _built(source, recipe, replace(context, seed=wanted.seed, progress=progress))
        artefact = replace(built, folder=folder)
        built.folder.rename(folder)  # before it is evaluated: whoever stops that keeps what was made
        start, limit = workdir / "start", source.thresholds.limit
        against = wanted.against or Reference(lambda: _start(source, target, workdir, progress), start, limit)
        try:
            with shared_device(target.device):
                splits = {name: split for name, split in data.splits.items() if name in wanted.splits}
                accuracy = accuracy_change(predictor, against, splits, progress)
        except KeyboardInterrupt:
            progress(f"{folder} is made, its accuracy was not evaluated")
            raise
    found = OptimizationResult(artefact, accuracy, wanted.max_drop, record_of(data))
    write_text(folder / ACCURACY, json.dumps(found.judged(), indent=1))
    return found


def _refuse(source: RecipeSource, recipe: Recipe, folder: Path, target: Target) -> None:
    """Refuse what is known to fail before anything is done.

    Raises:
        UserError: says what.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder with --out")
    if problem := recipe.runtime.unsupported_reason(target) or recipe.unsupported_reason(target):
        raise UserError(problem)
    if source.uncompressed is None and any(isinstance(step, Finetune) and step.lacks_teacher for step in recipe.steps):
        told = f"{source.folder}: lies in no sweep or training, so nothing tells the network before its steps"
        raise UserError(f"{told}; name its folder as finetune.distill.teacher")


def _context(
    source: RecipeSource, recipe: Recipe, images: RecipeImages, data: Data, workdir: Path, target: Target
) -> Context:
    """Return what the steps may use: they train as those of a trial do."""
    from paretune.training.loop import pick_device

    training = images.training
    if not training.by_ray:  # else each worker has its share of the cores
        training = training.model_copy(update={"threads": training.threads or _threads()})
    return Context(
        detector=source.detector,
        data=data,
        training=training,
        workdir=workdir,
        device=pick_device(training.device),
        dataset=images.dataset,
        cache=images.cache,
        baseline=source.uncompressed,
        target=target,
        runtime=recipe.runtime,
        thresholds=source.thresholds,
    )


def _threads() -> int:
    """Return the threads to train with; said explicitly, since evaluating in eager leaves torch with the target's."""
    there = len(os.sched_getaffinity(0))
    return min(int(os.environ.get("OMP_NUM_THREADS") or there), there)


def _built(source: RecipeSource, recipe: Recipe, context: Context) -> tuple[Artefact, Predictor]:
    """Carry out the recipe's steps, and load the artefact, once it is found to be what it was made from.

    Raises:
        UserError: a step failed, or the artefact says something else than the network it was made from.
    """
    from paretune.runtimes.predictor import load_predictor
    from paretune.verification.parity import verify

    try:
        with _ray(recipe, context):
            built = build(source.start, recipe, context, context.workdir / "artefact")
        with shared_device(context.target.device):
            predictor = load_predictor(built.artefact.folder, context.target)
            found = verify(predictor, built.network, context.data.splits["val"], changed=built.changed)
    except (FloatingPointError, RuntimeError) as error:
        raise UserError(f"optimize: {' '.join(str(error).split())}") from error
    context.progress(str(found))
    return built.artefact, predictor


@contextmanager
def _ray(recipe: Recipe, context: Context) -> Iterator[None]:
    """Start Ray where it is Ray Train that trains in one of the steps."""
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
    """Tell whether a step trains, with as many workers as the baseline."""
    return isinstance(step, Finetune) or (isinstance(step, Prune) and step.rounds > 1 and step.round_epochs > 0)


def _start(
    source: RecipeSource, target: Target, workdir: Path, progress: Callable[[str], None]
) -> tuple[str, Predictor]:
    """Load what the steps began with: an artefact on its runtime, a trained network in eager.

    An artefact that does not run here is replaced by the float network that it keeps, and a line says so.
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
    """Make a folder for the steps' files beside the artefact's.

    Raises:
        UserError: it cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent)
    except OSError as error:
        raise UserError(f"{folder.parent}: cannot be written ({error.strerror})") from error
