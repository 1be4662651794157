"""The history of a training on disk: a line for each epoch while it goes on, ``training.json`` when it is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError

KEPT = ("epochs.jsonl", "state.pt")
"""Files of an unfinished training, in the order in which they are saved."""


UNFINISHED = "unfinished"
"""Folder of these files, in the one that receives the network."""


HISTORY = "training.json"
"""What was trained, and what every epoch did, beside the trained network."""


def epochs_of(work: Path) -> list[dict[str, Any]]:
    """Return the epochs written so far; a line that is being written does not count yet."""
    path = work / KEPT[0]
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def was_begun(folder: Path) -> bool:
    """Tell whether a training in this folder has finished an epoch at least."""
    return (folder / HISTORY).is_file() or bool(epochs_of(folder / UNFINISHED))


def _append(work: Path, entry: dict[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / KEPT[0]).open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_history(folder: Path) -> dict[str, Any]:
    """Return what ``training.json`` of a trained network says; nothing where there is none.

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
