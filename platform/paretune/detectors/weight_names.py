"""Names of trained weights: a file, an address, or one of a family's own; nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paretune.core.errors import did_you_mean

CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt", ".safetensors")
"""Ends of the names of files that hold a checkpoint."""


def is_url(text: str) -> bool:
    """Return whether a text is an address to fetch from."""
    return text.startswith(("http://", "https://"))


def is_checkpoint(weights: str | None) -> bool:
    """Return whether weights are a file or an address, not a name."""
    return weights is not None and (is_url(weights) or weights.endswith(CHECKPOINTS))


def known_weights(weights: str, model: str, known: Sequence[str]) -> str:
    """Return weights that are a file, an address, or one of a model's known names.

    Raises:
        ValueError: they are none of these; the message has the nearest name.
    """
    if weights not in known and not is_checkpoint(weights):
        expected = f"{', '.join(known)}, a URL, or a file ({', '.join(CHECKPOINTS)})"
        raise ValueError(f"no such weights of {model}: {weights!r}{did_you_mean(weights, known)}; expected {expected}")
    return weights


def hash_problem(weights: str | None, sha256: str | None) -> str | None:
    """Return why weights cannot be had with, or without, this hash, or None: a URL needs one, a name has its own."""
    if weights is not None and is_url(weights) and sha256 is None:
        return f"weights {weights}: give the file's hash too, as `sha256: …`"
    if sha256 is not None and not is_checkpoint(weights):
        return "sha256 is of a file or an address that weights names"
    return None


def missing_file(weights: str | None) -> list[str]:
    """Return a line for a file of weights that does not exist; addresses are not looked for."""
    if weights is None or is_url(weights) or not weights.endswith(CHECKPOINTS):
        return []
    return [] if Path(weights).expanduser().is_file() else [f"weights {weights}: no such file"]
