"""Names that come from libraries, so that ``paretune check`` knows them without importing the libraries.

``python -m paretune.names`` writes ``OPTIMIZERS`` anew from the torch that is installed; a test holds both
tables equal to the libraries.
"""

from __future__ import annotations

from pathlib import Path

from paretune.core.errors import did_you_mean

OPTIMIZERS = (
    "ASGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
)
"""Classes of torch.optim that train any network when given nothing but a learning rate; others are tried."""

IMPORTANCES = {
    "l1": "MagnitudeImportance",
    "l2": "MagnitudeImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
    "bn_scale": "BNScaleImportance",
    "random": "RandomImportance",
}
"""Our name of a criterion of pruning → torch-pruning's class."""

SENSITIVITIES = ("taylor", "hessian")
"""Criteria of pruning that take gradients of the training loss: our own code."""


WEIGHTS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": ("COCO_V1",),
    "fasterrcnn_mobilenet_v3_large_fpn": ("COCO_V1",),
    "fasterrcnn_resnet50_fpn": ("COCO_V1",),
    "fasterrcnn_resnet50_fpn_v2": ("COCO_V1",),
    "ssd300_vgg16": ("COCO_V1", "IMAGENET1K_FEATURES"),
    "ssdlite320_mobilenet_v3_large": ("COCO_V1", "IMAGENET1K_V1", "IMAGENET1K_V2"),
}
"""Torchvision's detectors → its weights for all of the network, and those for its backbone."""


CHECKPOINTS = (".pth", ".pt", ".tar", ".ckpt", ".safetensors")
"""Ends of the names of files that hold a checkpoint."""


def is_url(text: str) -> bool:
    """Tell whether a text is an address to fetch from."""
    return text.startswith(("http://", "https://"))


def is_checkpoint(weights: str | None) -> bool:
    """Tell whether weights are a file or an address, not a name."""
    return weights is not None and (is_url(weights) or weights.endswith(CHECKPOINTS))


def known_weights(weights: str, model: str) -> str:
    """Return weights that are a file, an address, or one of torchvision's names for the model.

    Raises:
        ValueError: they are none of these; the nearest name is told.
    """
    known = WEIGHTS.get(model, ())
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
    """Return that a file of weights is not there, in a line; what has to be fetched is not looked for."""
    if weights is None or is_url(weights) or not weights.endswith(CHECKPOINTS):
        return []
    return [] if Path(weights).expanduser().is_file() else [f"weights {weights}: no such file"]


def installed_optimizers() -> tuple[str, ...]:
    """Return the names of torch.optim's classes that do a step on weights of 4 dimensions and of 1.

    Tried, not told by their names: some want sparse gradients, matrices only, or the loss several times a step.
    """
    import inspect
    from typing import Any

    import torch
    from torch import nn

    found = []
    classes: list[tuple[str, Any]] = inspect.getmembers(torch.optim, inspect.isclass)
    for name, cls in classes:
        layer = nn.Conv2d(2, 2, 3)
        layer(torch.ones(1, 2, 3, 3)).sum().backward()
        try:
            cls(layer.parameters(), lr=1e-3).step()
        except (TypeError, ValueError, RuntimeError, NotImplementedError):
            continue
        found.append(name)
    return tuple(found)


def rewritten(source: str, optimizers: tuple[str, ...]) -> str:
    """Return this file's text with another tuple of optimizers."""
    head, opening, rest = source.partition("OPTIMIZERS = (\n")
    _, closing, tail = rest.partition("\n)\n")
    return head + opening + "\n".join(f'    "{name}",' for name in optimizers) + closing + tail


if __name__ == "__main__":
    here = Path(__file__)
    here.write_text(rewritten(here.read_text(), installed_optimizers()))
