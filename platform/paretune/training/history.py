"""The history of a training on disk: one line for each epoch during it, ``training.json`` at its end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError

KEPT = ("epochs.jsonl", "state.pt")
"""Files of an unfinished training, in the order in which they are saved."""


UNFINISHED = "unfinished"
"""Folder of the files of an unfinished training, in the folder that receives the network."""


HISTORY = "training.json"
"""File with the settings and the epochs of a training, beside the trained network."""


@dataclass(frozen=True)
class TrainingStep:
    """A step of a training that is done."""

    epoch: int
    """Number of its epoch, from 1."""
    epochs: int
    """Number of epochs of the training."""
    step: int
    """Number of the step in its epoch, from 1."""
    steps: int
    """Number of steps of an epoch."""
    loss: float
    """Mean of the loss over the epoch so far."""

    @property
    def done(self) -> float:
        """Return the number of epochs that are done, a fraction included."""
        return self.epoch - 1 + self.step / self.steps


def no_step(_: TrainingStep) -> None:
    """Ignore a step."""


def epochs_of(work: Path) -> list[dict[str, Any]]:
    """Return the epochs written so far, without a line that is incomplete."""
    path = work / KEPT[0]
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def was_begun(folder: Path) -> bool:
    """Return whether a training in this folder has finished at least one epoch."""
    return (folder / HISTORY).is_file() or bool(epochs_of(folder / UNFINISHED))


def _append(work: Path, entry: dict[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / KEPT[0]).open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_history(folder: Path) -> dict[str, Any]:
    """Return the content of a trained network's ``training.json``; empty if there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / HISTORY
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error})") from error
