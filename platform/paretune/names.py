"""Names that come from libraries, so that ``paretune check`` knows them without importing the libraries.

``python -m paretune.names`` prints what the installed libraries have; a test holds this file equal to it.
"""

from __future__ import annotations

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
"""Classes of torch.optim that take one learning rate and dense gradients."""

IMPORTANCES = {
    "l1": "MagnitudeImportance",
    "l2": "MagnitudeImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
    "bn_scale": "BNScaleImportance",
    "random": "RandomImportance",
}
"""Our name of a criterion → torch-pruning's class."""


def installed_optimizers() -> tuple[str, ...]:
    """Return the names of torch.optim's classes that fit any network.

    SparseAdam wants sparse gradients, LBFGS a closure, Muon matrices only.
    """
    import inspect

    import torch

    unfit = {"Optimizer", "SparseAdam", "LBFGS", "Muon"}
    classes = inspect.getmembers(torch.optim, inspect.isclass)
    return tuple(name for name, cls in classes if issubclass(cls, torch.optim.Optimizer) and name not in unfit)


if __name__ == "__main__":
    print("OPTIMIZERS =", installed_optimizers())
