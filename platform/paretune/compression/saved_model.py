"""Models between two steps on disk, so that another trial can go on from them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune.compression.base import Context
from paretune.core.model import Model
from paretune.core.types import InputSize


def save_model(model: Model, folder: Path) -> dict[str, Any]:
    """Write a model's network or files into a folder and return the rest of the model as plain data.

    Raises:
        ValueError: a weight is not finite.
        OSError: the folder cannot be written.
    """
    from paretune.networks.network_files import save_network

    folder.mkdir(parents=True, exist_ok=True)
    if model.network is not None:
        save_network(model.network, folder)
    for file in model.files:
        shutil.copyfile(file, folder / file.name)
    return {
        "input_size": str(model.input_size),
        "history": list(model.history),
        "notes": list(model.notes),
        "params": model.params,
        "flops": model.flops,
        "calibration": model.calibration,
        "file": None if model.file is None else model.file.name,
        "more": {part: file.name for part, file in model.more.items()},
        "file_format": model.file_format,
        "changed": model.changed,
        "weight_properties": sorted(model.weight_properties),
    }


def load_model(facts: Mapping[str, Any], folder: Path, context: Context) -> Model:
    """Return the model that ``save_model`` wrote.

    Args:
        facts: as ``save_model`` returned them.
        folder: of its files, which the model refers to.
        context: names the detector and the classes.

    Raises:
        UserError: the network cannot be read.
    """
    from paretune.networks.network_files import load_network

    network = None
    if facts["file"] is None:
        network = load_network(context.detector, len(context.classes), folder)
    return Model(
        network,
        None if facts["file"] is None else folder / facts["file"],
        InputSize.parse(facts["input_size"]),
        tuple(facts["history"]),
        tuple(facts["notes"]),
        facts["params"],
        facts["flops"],
        facts["calibration"],
        {part: folder / name for part, name in facts["more"].items()},
        facts["file_format"],
        facts["changed"],
        frozenset(facts["weight_properties"]),
    )
