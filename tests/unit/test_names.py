"""The written names are those of the libraries that are installed."""

from __future__ import annotations

import ast
from pathlib import Path

import torch
import torch_pruning

from paretune.core import library_names as names


def test_optimizers_are_those_of_the_installed_torch() -> None:
    installed = names.installed_optimizers()
    assert installed == names.OPTIMIZERS, "run `python -m paretune.names`"
    assert {"AdamW", "SGD"} <= set(installed)
    assert not {"LBFGS", "SparseAdam", "Muon", "Optimizer"} & set(installed)


def test_every_optimizer_lowers_a_loss() -> None:
    for name in names.OPTIMIZERS:
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(2, 2, 3)
        images, losses = torch.rand(4, 2, 6, 6), []
        optimizer = getattr(torch.optim, name)(layer.parameters(), lr=1e-2)
        for _ in range(20):
            optimizer.zero_grad()
            loss = (layer(images) - 1).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0], name


def test_criteria_are_classes_of_torch_pruning() -> None:
    kinds = {name: getattr(torch_pruning.importance, cls, None) for name, cls in names.IMPORTANCES.items()}
    assert all(isinstance(kind, type) for kind in kinds.values()), kinds


def test_the_generator_writes_the_file_as_it_stands_and_only_its_table() -> None:
    source = Path(names.__file__).read_text()
    assert names.rewritten(source, names.OPTIMIZERS) == source
    other = names.rewritten(source, ("Adam", "New"))
    tables = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(other).body
        if isinstance(node, ast.Assign)
    }
    others = {name: getattr(names, name) for name in ("IMPORTANCES", "SENSITIVITIES")}
    assert tables == {"OPTIMIZERS": ("Adam", "New"), **others}
    assert other.replace('    "Adam",\n    "New",\n', "") == source.replace(
        "".join(f'    "{name}",\n' for name in names.OPTIMIZERS), ""
    )
