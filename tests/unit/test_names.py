"""The written names are those of the libraries that are installed."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch_pruning

from paretune.core import library_names as names


def trains(cls: Any) -> bool:
    """Some want sparse gradients, matrices only, or the loss several times a step: their names do not show it."""
    layer = torch.nn.Conv2d(2, 2, 3)
    layer(torch.ones(1, 2, 3, 3)).sum().backward()
    try:
        cls(layer.parameters(), lr=1e-3).step()
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    return True


def test_optimizers_are_those_of_the_installed_torch() -> None:
    classes = inspect.getmembers(torch.optim, inspect.isclass)
    installed = tuple(name for name, cls in classes if trains(cls))
    assert installed == names.OPTIMIZERS
    assert {"AdamW", "SGD"} <= set(installed)
    assert not {"LBFGS", "SparseAdam", "Muon", "Optimizer"} & set(installed)


def test_criteria_are_classes_of_torch_pruning() -> None:
    kinds = {name: getattr(torch_pruning.importance, cls, None) for name, cls in names.IMPORTANCES.items()}
    assert all(isinstance(kind, type) for kind in kinds.values()), kinds
