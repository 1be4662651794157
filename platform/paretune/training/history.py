"""The history of a training on disk: one line for each epoch during it, ``training.json`` at its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError

EPOCHS = "epochs.jsonl"
"""File of an unfinished training with a line for each epoch."""


UNFINISHED = "unfinished"
"""Folder of the files of an unfinished training, in the folder that receives the network."""


HISTORY = "training.json"
"""File with the settings and the epochs of a training, beside the trained network."""


def epochs_of(work: Path) -> list[dict[str, Any]]:
    """Return the epochs written so far, without a line that is incomplete."""
    path = work / EPOCHS
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def was_begun(folder: Path) -> bool:
    """Return whether a training in this folder has finished at least one epoch."""
    return (folder / HISTORY).is_file() or bool(epochs_of(folder / UNFINISHED))


def _append(work: Path, entry: dict[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / EPOCHS).open("a") as file:
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
