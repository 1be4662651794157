"""The inputs of a recipe: a trained network and images."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paretune.config.recipe import Recipe
from paretune.core.errors import UserError, one_line
from paretune.core.spec import parse_plugin
from paretune.core.types import LIMIT, InputSize, Thresholds
from paretune.core.yaml_document import Document, validate
from paretune.data.base import Dataset
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.results.locate import job_of, uncompressed_around
from paretune.storage.artefact import MANIFEST, STRUCTURE, Artefact, kept_network, read_artefact
from paretune.training.history import HISTORY, read_history
from paretune.training.settings import Training
from paretune.workflows.step_chain import InitialArtefactNetwork


@dataclass(frozen=True)
class RecipeSource:
    """A trained network and its description."""

    folder: Path
    """Folder that the user named."""
    start: InitialArtefactNetwork
    detector: Detector
    classes: tuple[str, ...]
    size: InputSize
    """Size of its input in the training."""
    uncompressed: Path | None
    """Folder of the network before any step, the default teacher; None if it is unknown."""
    left: tuple[str, ...] = ()
    """Steps of an artefact that its float network lacks."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Thresholds of its postprocessing."""


@dataclass(frozen=True)
class RecipeImages:
    """Images that the steps train, calibrate and compare with."""

    dataset: Dataset
    cache: Path
    """Folder of generated datasets."""
    training: Training
    """Settings of the network's training."""


def read_source(folder: Path) -> RecipeSource:
    """Return the network in the folder of a training, of a sweep's baseline or of an artefact.

    Raises:
        UserError: there is none, or only exported files of an older version.
    """
    if (folder / MANIFEST).is_file():
        return _of_artefact(read_artefact(folder))
    if not (folder / HISTORY).is_file() or not (folder / STRUCTURE).is_file():
        raise UserError(f"{folder}: no trained network (the folder of a training or of an artefact is expected)")
    facts = read_history(folder)
    try:
        detector: Detector = parse_plugin(facts["detector"], DETECTORS)
        size = InputSize.parse(facts["input_size"])
        kept = Thresholds().keeping(facts.get("thresholds", {}).get("detections", LIMIT))
        classes = tuple(facts["classes"])
        return RecipeSource(
            folder, InitialArtefactNetwork(folder), detector, classes, size, uncompressed=folder, thresholds=kept
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder / HISTORY}: not readable ({one_line(error)})") from error


def _of_artefact(artefact: Artefact) -> RecipeSource:
    steps = tuple(artefact.recipe.get("steps", ()))
    if artefact.kept is not None:
        start = InitialArtefactNetwork(kept_network(artefact), artefact.kept.steps, artefact.kept.notes)
    elif artefact.format == "torch":
        start = InitialArtefactNetwork(artefact.folder, steps, artefact.notes)
    else:
        told = f"{artefact.folder}: is exported ({artefact.format}), and steps begin with a torch network"
        raise UserError(f"{told}; name the training, or an artefact of runtime eager")
    left = tuple(name for step in steps[len(start.steps) :] for name in step)
    uncompressed = uncompressed_around(artefact.folder) or (None if start.steps else start.folder)
    detector: Detector = parse_plugin(artefact.detector, DETECTORS)
    kept = artefact.thresholds
    return RecipeSource(
        artefact.folder, start, detector, artefact.classes, artefact.input_size, uncompressed, left, kept
    )


def images_of(folder: Path, named: tuple[Dataset, Path] | None, training: Training | None) -> RecipeImages:
    """Return the images that are named, or those of the sweep or training around the source.

    Args:
        folder: of the source.
        named: (dataset, cache), or None.
        training: of the job that names them; None takes the source's own, or the defaults.

    Raises:
        UserError: none are named, and the source is in no sweep or training.
    """
    own = job_of(folder) if named is None or training is None else None
    if named is None:
        if own is None:
            raise UserError(f"{folder}: lies in no sweep or training; name the images with --data JOB.yaml|FOLDER")
        named = own[0].dataset, own[1]
    return RecipeImages(*named, training or (own[0].training if own else Training()))


def read_recipe(document: Document, source: RecipeSource) -> Recipe:
    """Return a recipe for a network; its input size defaults to the network's.

    Raises:
        UserErrors: every mistake in the recipe.
        UserError: the detector cannot take the input size.
    """
    data = document.data
    if isinstance(data, dict):
        data = {"input_size": str(source.size), **data}
    recipe = validate(Recipe, Document(document.file, data, document.lines))
    if problem := source.detector.size_unsupported_reason(recipe.size):
        raise UserError(f"{document.file}: input_size {recipe.size}: {problem}")
    return recipe
