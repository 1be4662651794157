"""What a training begins with: fresh weights, those that the detector names, or a network that was trained before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.core.errors import UserError
from paretune.core.types import Data, InputSize
from paretune.detectors.base import Detector
from paretune.detectors.torchvision_sizes import size_notes
from paretune.training.settings import Training

if TYPE_CHECKING:
    from torch import nn


def begun(
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


def left_to_say(notes: Sequence[str], say: Callable[[str], None] | None) -> list[str]:
    """Say them, or return them where there is nobody to say them to."""
    if say is None:
        return list(notes)
    for note in notes:
        say(note)
    return []
