"""Weights that torchvision publishes, fetched when they are asked for and kept under the output folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

from torch import Tensor, nn

from paretune.errors import UserError

FOLDER = "PARETUNE_WEIGHTS"
"""Variable that names the folder in which fetched weights are kept; ``runs/weights`` without it."""


def fetch(model: str, weights: str) -> dict[str, Tensor]:
    """Return weights of torchvision, checked against the hash in their name.

    Args:
        model: torchvision's name of a model.
        weights: its name of the weights.

    Raises:
        UserError: they lie in no folder of ours, and there is no network to fetch them over; or they are damaged.
    """
    from torchvision.models import get_model_weights

    table: Any = get_model_weights(model)
    folder = Path(os.environ.get(FOLDER, "runs/weights"))
    try:
        state: dict[str, Tensor] = table[weights].get_state_dict(
            progress=False, check_hash=True, model_dir=str(folder), weights_only=True
        )
    except (URLError, OSError, RuntimeError) as error:
        reason, url = str(error).splitlines()[0], table[weights].url
        raise UserError(
            f"weights {weights} of {model} cannot be fetched ({reason}); put {url} into {folder.absolute()}"
        ) from error
    return state


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
