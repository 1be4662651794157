"""What a training begins with: fresh weights, those that the detector names, or a network that was trained before."""

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
    """Return the network that a training begins with, and what is to be known of its weights, a line each.

    Args:
        detector: whose network it is.
        data: whose classes it is for.
        size: of its input.
        settings: seed of fresh weights; no epochs take weights as they are.
        start: folder of a network to go on from; None begins with what the detector names.

    Raises:
        UserError: it cannot be had; or it is not to be trained, and some classes have no weights.
    """
    import torch

    from paretune.networks.network_files import load_network

    if start is not None:
        return load_network(detector, len(data.classes), start).train(), []
    torch.manual_seed(settings.seed)
    beginning = detector.begin(data.classes)
    if not settings.epochs and beginning.fresh:
        fresh = ", ".join(beginning.fresh)
        told = "take a file that has them, or train (training.epochs)"
        raise UserError(f"training.epochs: 0 takes the weights as they are, and there are none for {fresh}: {told}")
    return beginning.network, [*beginning.notes, *size_notes(detector, size, data)]


def report_notes(notes: Sequence[str], say: Callable[[str], None] | None) -> list[str]:
    """Say them, or return them where there is nobody to say them to."""
    if say is None:
        return list(notes)
    for note in notes:
        say(note)
    return []


def unsupported_baseline_reason(source: Path, detector: Detector) -> str | None:
    """Return why a folder cannot be taken as a detector's trained network, as far as it says so itself, or None."""
    if not (source / STRUCTURE).is_file():
        return f"{source} holds no trained network ({STRUCTURE} and weights.safetensors)"
    trained = read_history(source).get("detector", detector.named())
    try:
        same = parse_plugin(trained, DETECTORS) == detector  # an older Paretune told fewer fields
    except ValueError:  # pydantic's errors are
        same = False
    return None if same else f"{source} is a {trained}, and the job's is {detector.named()}"


def import_baseline(source: Path, detector: Detector, classes: tuple[str, ...], folder: Path) -> None:
    """Take a trained network over into a folder, when it fits.

    Raises:
        UserError: there is none, or it is of another detector or other classes.
    """
    if said := unsupported_baseline_reason(source, detector):
        raise UserError(f"baseline: {said}")
    from paretune.networks.network_files import WEIGHTS, load_network, outputs_of

    trained = read_history(source).get("classes", list(classes))
    if trained != list(classes):
        raise UserError(f"baseline: {source}: trained for {', '.join(trained)}; the dataset has {', '.join(classes)}")
    if outputs_of(detector, load_network(detector, len(classes), source)) != outputs_of(
        detector, detector.build(len(classes))
    ):
        raise UserError(f"baseline: {source}: not trained for {len(classes)} classes, as the dataset has")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (HISTORY, WEIGHTS, STRUCTURE):  # the structure marks a complete one
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
