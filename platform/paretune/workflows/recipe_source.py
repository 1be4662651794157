"""What a recipe begins with: a trained network, and the images to work with."""

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
from paretune.workflows.build_artefact import InitialArtefactNetwork


@dataclass(frozen=True)
class RecipeSource:
    """A trained network, and what is known of it."""

    folder: Path
    """As it was named."""
    start: InitialArtefactNetwork
    detector: Detector
    classes: tuple[str, ...]
    size: InputSize
    """Of its input, as it was trained."""
    uncompressed: Path | None
    """Folder of the network before any step, the teacher unless another is named; None where it is not known."""
    left: tuple[str, ...] = ()
    """Steps of an artefact that its deployed files alone have gone through: they are not part of the start."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What its postprocessing keeps."""


@dataclass(frozen=True)
class RecipeImages:
    """What the steps train, calibrate and compare with."""

    dataset: Dataset
    cache: Path
    """Folder of generated datasets."""
    training: Training
    """How the network was trained."""


def read_source(folder: Path) -> RecipeSource:
    """Find the network in the folder of a training, of a sweep's baseline or of an artefact.

    Raises:
        UserError: there is none, or it was exported by a Paretune that kept none beside the exported files.
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
    """Return the images to work with: those named, or of the sweep or training that the source lies in.

    Args:
        folder: of the source.
        named: dataset and cache.
        training: of the job that names them; None takes the source's own, or else the defaults.

    Raises:
        UserError: there are none.
    """
    own = job_of(folder) if named is None or training is None else None
    if named is None:
        if own is None:
            raise UserError(f"{folder}: lies in no sweep or training; name the images with --data JOB.yaml|FOLDER")
        named = own[0].dataset, own[1]
    return RecipeImages(*named, training or (own[0].training if own else Training()))


def read_recipe(document: Document, source: RecipeSource) -> Recipe:
    """Check a recipe for a network; an input size that is left out is the network's own.

    Raises:
        UserErrors: every mistake in it.
        UserError: the detector cannot take the input size.
    """
    data = document.data
    if isinstance(data, dict):
        data = {"input_size": str(source.size), **data}
    recipe = validate(Recipe, Document(document.file, data, document.lines))
    if problem := source.detector.size_unsupported_reason(recipe.size):
        raise UserError(f"{document.file}: input_size {recipe.size}: {problem}")
    return recipe
