"""Names from libraries, so that ``paretune check`` knows them without importing the libraries.

Tests compare each table with the installed library.
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
"""Classes of torch.optim that train any network with no argument but a learning rate; others are tried."""

IMPORTANCES = {
    "l1": "MagnitudeImportance",
    "l2": "MagnitudeImportance",
    "lamp": "LAMPImportance",
    "fpgm": "FPGMImportance",
    "bn_scale": "BNScaleImportance",
    "random": "RandomImportance",
}
"""Criterion of pruning → class of torch-pruning."""

SENSITIVITIES = ("taylor", "hessian")
"""Criteria of pruning that need gradients of the training loss, computed by this package."""
