"""The network that a training starts from: new weights, those that the detector names, or a trained network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.core.errors import UserError
from paretune.core.spec import parse_plugin
from paretune.core.types import Data, InputSize
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.detectors.torchvision_sizes import size_notes
from paretune.storage.artefact import STRUCTURE
from paretune.training.history import HISTORY, read_history
from paretune.training.settings import Training

if TYPE_CHECKING:
    from torch import nn


def initial_network(
    detector: Detector, data: Data, size: InputSize, settings: Training, start: Path | None
) -> tuple[nn.Module, list[str]]:
    """Return the network that a training starts from, and notes on its weights.

    Args:
        detector: of the network.
        data: dataset with the classes.
        size: of the input.
        settings: of the training, with the seed of new weights; 0 epochs use the weights unchanged.
        start: folder of a network to start from; None starts from the weights that the detector names.

    Raises:
        UserError: the weights are not available, or some classes have no weights and there are no epochs.
    """
    import torch

    from paretune.networks.network_files import load_network

    if start is not None:
        return load_network(detector, len(data.classes), start).train(), []
    torch.manual_seed(settings.seed)
    beginning = detector.begin(data.classes)
    if not settings.epochs and beginning.fresh:
        fresh = ", ".join(beginning.fresh)
        remedy = "take a file that has them, or train (training.epochs)"
        raise UserError(f"training.epochs: 0 takes the weights as they are, and there are none for {fresh}: {remedy}")
    return beginning.network, [*beginning.notes, *size_notes(detector, size, data)]


def report_notes(notes: Sequence[str], say: Callable[[str], None] | None) -> list[str]:
    """Report notes by ``say``; without it, return them."""
    if say is None:
        return list(notes)
    for note in notes:
        say(note)
    return []


def unsupported_baseline_reason(source: Path, detector: Detector) -> str | None:
    """Return why a folder is not a trained network of a detector, according to its own files, or None."""
    if not (source / STRUCTURE).is_file():
        return f"{source} holds no trained network ({STRUCTURE} and weights.safetensors)"
    trained = read_history(source).get("detector", detector.named())
    try:
        same = parse_plugin(trained, DETECTORS) == detector  # an older Paretune wrote fewer fields
    except ValueError:  # of pydantic
        same = False
    return None if same else f"{source} is a {trained}, and the job's is {detector.named()}"


def import_baseline(source: Path, detector: Detector, classes: tuple[str, ...], folder: Path) -> None:
    """Copy a trained network into a folder after checking that it fits.

    Raises:
        UserError: the folder has no network, or one of another detector or other classes.
    """
    if reason := unsupported_baseline_reason(source, detector):
        raise UserError(f"baseline: {reason}")
    from paretune.networks.network_files import load_network, outputs_of
    from paretune.storage.artefact import WEIGHTS

    trained = read_history(source).get("classes", list(classes))
    if trained != list(classes):
        raise UserError(f"baseline: {source}: trained for {', '.join(trained)}; the dataset has {', '.join(classes)}")
    if outputs_of(detector, load_network(detector, len(classes), source)) != outputs_of(
        detector, detector.build(len(classes))
    ):
        raise UserError(f"baseline: {source}: not trained for {len(classes)} classes, as the dataset has")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (HISTORY, WEIGHTS, STRUCTURE):  # the structure comes last and marks a complete network
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
