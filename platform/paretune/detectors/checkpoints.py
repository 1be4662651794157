"""Checkpoints that people have saved: found in whatever lies around them, and no code in them is run."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from paretune.core.errors import UserError
from paretune.detectors.weight_names import is_url
from paretune.storage.atomic_files import sha256

FOLDER = "PARETUNE_WEIGHTS"
"""Variable that names the folder in which fetched weights are kept; ``runs/weights`` without it."""
_AVERAGED = ("model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "ema")
_LAST = ("model", "state_dict", "model_state_dict", "model_state", "network", "net", "weights", "params", "module")
"""Keys under which training programs save weights: averages over the last steps, with which they validate,
and the weights themselves."""
_WRAPPERS = ("module.", "_orig_mod.", "model.", "network.", "net.", "detector.")
"""What data parallelism, torch.compile and training programs put before every name."""
_COUNTERS = ("n_averaged",)
"""Tensors of torch's averaged models that are no weights."""
_NAMES = ("classes", "class_names", "names", "categories", "CLASSES", "labels")
"""Keys under which class names are saved."""
_AROUND = ("meta", "dataset_meta", "hyper_parameters", "args")
"""Keys of what may hold them."""
_BACKGROUND = ("__background__", "background", "bg")
_DEEPEST = 3
"""Mappings in mappings that weights are looked for in."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights with the class names and notes from their file."""

    what: str
    """Name for messages: the file, or torchvision's name of the weights."""
    state: dict[str, Tensor]
    classes: tuple[str | None, ...] | None = None
    """Class names without the background, in the order of the outputs; None where one of them is missing."""
    notes: tuple[str, ...] = ()
    """What was chosen in the file."""


def folder_of_weights() -> Path:
    """Return the folder in which fetched weights are kept."""
    return Path(os.environ.get(FOLDER, "runs/weights"))


def read_checkpoint(source: str, digest: str | None) -> Checkpoint:
    """Return the weights in a checkpoint, fetched if it is an address; no code in it is run.

    Args:
        source: path, or URL.
        digest: SHA-256 that the file must have, in hex; None for a path takes any file.

    Raises:
        UserError: no such file, one with another hash, or not a checkpoint.
    """
    file = _fetched(source, digest or "") if is_url(source) else Path(source).expanduser()
    if not file.is_file():
        raise UserError(f"weights {source}: no such file")
    actual = sha256(file)
    if digest is not None and actual != digest:
        raise UserError(f"weights {source}: {file} is another file than asked for: its sha256 is {actual}")
    content = _content(source, file)
    state, place = _state_in(content)
    if state is None:
        keys = f", not {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else ""
        raise UserError(
            f"weights {source}: expected a state dict of tensors, or one under {', '.join((*_LAST[:3], 'ema'))}{keys}"
        )
    state = _unwrapped(state)
    if odd := [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise UserError(f"weights {source}: {odd[0]} is not finite")
    notes = [f"weights {source}: sha256 {actual}"]
    others = [key for key in (*_AVERAGED, *_LAST) if isinstance(content, Mapping) and key in content]
    if place and place[0] in _AVERAGED and len(others) > 1:
        notes.append(f"weights {source}: the averaged weights under `{'.'.join(place)}` are taken, of {others}")
    return Checkpoint(f"weights {source}", state, class_names(content), tuple(notes))


def _content(source: str, file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        with torch.serialization.safe_globals([argparse.Namespace]):  # torchvision's own scripts save their arguments
            return torch.load(file, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"weights {source}: not a checkpoint ({error})") from error
    except Exception as error:  # whatever a damaged archive makes torch raise
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"weights {source}: not a checkpoint that can be read without running code: it holds {named[1]}; in "
                f"the program that saved it, save the weights alone: torch.save(model.state_dict(), {file.name!r})"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"weights {source}: not a checkpoint ({reason[:120]})") from error


def _state_in(content: Any, depth: int = 0) -> tuple[dict[str, Tensor] | None, tuple[str, ...]]:
    """Return the state dict in what a file holds, and the keys that lead to it; None where there is none."""
    if not isinstance(content, Mapping) or not content or depth > _DEEPEST:
        return None, ()
    tensors = {str(name): value for name, value in content.items() if not str(name).endswith("_extra_state")}
    if tensors and all(isinstance(value, Tensor) for value in tensors.values()):
        return tensors, ()
    for key in (*_AVERAGED, *_LAST):
        state, below = _state_in(content.get(key), depth + 1)
        if state is not None:
            return state, (key, *below)
    return None, ()


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights by their names in the network itself."""
    tensors = {name: value for name, value in state.items() if name not in _COUNTERS}
    while wrapper := next((before for before in _WRAPPERS if all(name.startswith(before) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
        if not tensors:
            break
    return tensors


def class_names(content: Any) -> tuple[str | None, ...] | None:
    """Return the class names in a checkpoint, without the background; None where it has none."""
    if not isinstance(content, Mapping):
        return None
    around = [content, *(content[key] for key in _AROUND if key in content)]
    for place in around:
        fields = vars(place) if isinstance(place, argparse.Namespace) else place
        for key in _NAMES if isinstance(fields, Mapping) else ():
            if (names := as_class_names(fields.get(key))) is not None:
                return names
    return None


def as_class_names(listed: Any) -> tuple[str | None, ...] | None:
    """Return names as a tuple without the background: of a list, or of numbers with names; None for anything else."""
    if isinstance(listed, Mapping) and listed and all(isinstance(number, int) and number >= 0 for number in listed):
        listed = [listed.get(number) for number in range(max(listed) + 1)]
        if listed[0] is None:  # numbers from 1 on: the background is 0
            listed = ["__background__", *listed[1:]]
    if not isinstance(listed, list | tuple) or not listed:
        return None
    names = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in listed]
    if not all(name is None or isinstance(name, str) for name in names):
        return None
    if isinstance(names[0], str) and names[0].casefold() in _BACKGROUND:
        names = names[1:]
    return tuple(None if name in (None, "", "N/A") else name for name in names)


def _fetched(url: str, digest: str) -> Path:
    """Return the file of an address, fetched once and kept by its hash where that is known."""
    file = folder_of_weights() / "-".join(filter(None, (digest[:16], Path(url).name)))
    if file.is_file():
        return file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
    except (URLError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"weights {url} cannot be fetched ({reason}); put the file at {file.absolute()}") from error
    return file
