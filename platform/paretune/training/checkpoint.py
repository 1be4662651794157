"""Where a training stands: all that is needed to go on as if nothing had happened."""

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
    """On the validation split."""
    epoch: int
    """Epochs done then."""
    network: dict[str, Tensor]


@dataclass(frozen=True)
class TrainingState:
    """A training after some epochs; plain tensors, numbers and mappings only.

    No state of random numbers: every epoch draws its own from seed and number.
    """

    made_by: str
    """Fingerprint of detector, input size and settings: only the same training can be resumed."""
    epoch: int
    """Epochs done."""
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    """The moving average, or nothing where none is kept."""
    optimizer: dict[str, Any]
    averaged: int = 0
    """Steps that the average has seen."""
    scale: dict[str, Any] = field(default_factory=dict)
    """Of the loss, in float16."""
    best: dict[str, Any] = field(default_factory=dict)
    """Fields of ``BestNetwork``, where a training may end early."""


def save_state(state: TrainingState, folder: Path) -> None:
    """Put the state in place of the one before, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{FILE}.{os.getpid()}.part"
    torch.save(vars(state), draft)
    sync(draft)
    draft.replace(folder / FILE)
    sync(folder)


def load_state(folder: Path) -> TrainingState | None:
    """Return the state saved in a folder, or None where there is none.

    Raises:
        UserError: the file cannot be read; nothing in it is ever executed.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except (TypeError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable training state ({reason}); delete it to train anew") from error


class RemoteCheckpoint:
    """A folder of any file system that fsspec knows: a path, or a URL such as ``s3://bucket/folder``.

    Args:
        url: the folder of all trainings,
        key: and of this one in it.

    Raises:
        UserError: no such file system, its library is not installed, or it cannot be written.
    """

    def __init__(self, url: str, key: str) -> None:
        import fsspec

        self._url = url
        try:
            self._files, root = fsspec.core.url_to_fs(url)
            self._root = f"{root.rstrip('/')}/{key}"
            self._files.makedirs(self._root, exist_ok=True)
        except Exception as error:  # every file system has errors of its own
            raise self._refused(error) from error

    def put(self, folder: Path, names: tuple[str, ...]) -> None:
        """Copy files there, each whole or not at all, in this order.

        Raises:
            UserError: it cannot be written.
        """
        try:
            for name in names:
                draft, place = f"{self._root}/{name}.part", f"{self._root}/{name}"
                self._files.put_file(str(folder / name), draft)
                self._files.mv(draft, place)
        except Exception as error:
            raise self._refused(error) from error

    def get(self, folder: Path, names: tuple[str, ...]) -> None:
        """Copy files from there, those that are there, into a folder; what lies there already is left.

        Raises:
            UserError: it cannot be read.
        """
        try:
            for name in names:
                if not (folder / name).exists() and self._files.exists(f"{self._root}/{name}"):
                    folder.mkdir(parents=True, exist_ok=True)
                    self._files.get_file(f"{self._root}/{name}", str(folder / name))
        except Exception as error:
            raise self._refused(error) from error

    def clear(self) -> None:
        """Remove what is there: the training is finished."""
        self._files.rm(self._root, recursive=True)

    def _refused(self, error: Any) -> UserError:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return UserError(f"training.storage: {self._url} cannot be used ({reason})")
