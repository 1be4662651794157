"""Weights that torchvision publishes, fetched when they are asked for and kept under the output folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from paretune.errors import UserError
from paretune.names import is_url
from paretune.store import sha256

FOLDER = "PARETUNE_WEIGHTS"
"""Variable that names the folder in which fetched weights are kept; ``runs/weights`` without it."""


def fetch(model: str, weights: str) -> dict[str, Tensor]:
    """Return weights of torchvision, checked against the hash in their name whenever they are read.

    Args:
        model: torchvision's name of a model.
        weights: its name of the weights.

    Raises:
        UserError: they lie in no folder of ours, and there is no network to fetch them over; or they are damaged.
    """
    from torchvision.models import get_model_weights

    table: Any = get_model_weights(model)
    folder, url = Path(os.environ.get(FOLDER, "runs/weights")), str(table[weights].url)
    file, begins = folder / Path(url).name, Path(url).stem.rpartition("-")[2]
    if file.is_file() and not (found := sha256(file)).startswith(begins):  # torch.hub checks only what it fetches
        raise UserError(f"weights {weights} of {model}: {file} is damaged or another file (sha256 {found}); delete it")
    try:
        state: dict[str, Tensor] = table[weights].get_state_dict(
            progress=False, check_hash=True, model_dir=str(folder), weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"weights {weights} of {model} cannot be fetched ({reason}); put {url} into {folder.absolute()}"
        ) from error
    return state


def checkpoint(source: str, digest: str | None) -> dict[str, Tensor]:
    """Return the weights in a checkpoint, fetched if it is an address; no code in it is run.

    Args:
        source: path, or URL.
        digest: SHA-256 that the file must have, in hex; None for a path takes any file.

    Raises:
        UserError: no such file, another one than the hash says, or not a checkpoint.
    """
    file = _fetched(source, digest or "") if is_url(source) else Path(source).expanduser()
    if not file.is_file():
        raise UserError(f"weights {source}: no such file")
    if digest is not None and sha256(file) != digest:
        raise UserError(f"weights {source}: {file} is another file than asked for: its sha256 is {sha256(file)}")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged archive makes torch raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"weights {source}: not a checkpoint ({reason[:120]})") from error
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {source}: expected a state dict of tensors, or one under `model`")
    if odd := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"weights {source}: {odd[0]} is not finite")
    return {str(name): value for name, value in state.items()}


def _fetched(url: str, digest: str) -> Path:
    """Return the file of an address, fetched once and kept by its hash."""
    file = Path(os.environ.get(FOLDER, "runs/weights")) / f"{digest[:16]}-{Path(url).name}"
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
    except (URLError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"weights {url} cannot be fetched ({reason}); put the file at {file.absolute()}") from error
    return file


def load_detector(network: nn.Module, state: dict[str, Tensor], predictors: tuple[str, ...], what: str) -> None:
    """Load a whole detector's weights by their names; predictors of other classes keep their fresh weights.

    Args:
        network: changed in place.
        state: the weights.
        predictors: beginnings of the names of layers whose shapes depend on the number of classes.
        what: the weights, for messages.

    Raises:
        UserError: they are not this network's.
    """
    own = network.state_dict()
    fresh = {name for name in own if name.startswith(predictors) and name in state}
    fresh = {name for name in fresh if own[name].shape != state[name].shape}
    odd = sorted(own.keys() ^ state.keys())
    odd += [name for name in own if name in state and name not in fresh and own[name].shape != state[name].shape]
    if odd:
        raise UserError(f"{what}: not of this network ({len(odd)} tensors differ, such as {odd[0]})")
    network.load_state_dict({name: value for name, value in state.items() if name not in fresh}, strict=False)
