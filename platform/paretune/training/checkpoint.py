"""The state of a training on disk, from which it is resumed with the same result."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paretune.core.errors import UserError
from paretune.storage.atomic_files import sync

FILE = "state.pt"


@dataclass(frozen=True)
class BestNetwork:
    """The best network of a training so far."""

    map: float
    """Map on the validation split."""
    epoch: int
    """Number of epochs after which it was found."""
    network: dict[str, Tensor]


@dataclass(frozen=True)
class TrainingState:
    """State of a training after some epochs, in plain tensors, numbers and mappings.

    Random generators have no state in it, since every epoch starts them from its seed and number.
    """

    made_by: str
    """Fingerprint of detector, input size and settings, which a resumed training must share."""
    epoch: int
    """Number of finished epochs."""
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    """Moving average of the weights; empty if there is none."""
    optimizer: dict[str, Any]
    averaged: int = 0
    """Number of steps in the moving average."""
    scale: dict[str, Any] = field(default_factory=dict)
    """State of the loss scale, for float16."""
    best: dict[str, Any] = field(default_factory=dict)
    """Fields of ``BestNetwork``, if the training may end early."""


def save_state(state: TrainingState, folder: Path) -> None:
    """Replace the saved state, completely or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{FILE}.{os.getpid()}.part"
    torch.save(vars(state), draft)
    sync(draft)
    draft.replace(folder / FILE)
    sync(folder)


def load_state(folder: Path) -> TrainingState | None:
    """Return the state saved in a folder, or None. No code in the file is executed.

    Raises:
        UserError: the file cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except (TypeError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable training state ({reason}); delete it to train anew") from error
