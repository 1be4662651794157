"""Names that come from libraries, so that ``paretune check`` knows them without importing the libraries.

``python -m paretune.names`` writes ``OPTIMIZERS`` anew from the torch that is installed; a test holds both
tables equal to the libraries.
"""

from __future__ import annotations

from pathlib import Path

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
