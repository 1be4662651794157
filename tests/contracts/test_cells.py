"""Every step on every runtime: which recipes there are, and which there are not, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from paretune.compression import STEPS
from paretune.config.recipe import Recipe
from paretune.runtimes import RUNTIMES

WAYS: dict[str, list[dict[str, Any]]] = {
    "finetune": [{}, {"distill": {}}, {"qat": True}],
    "sparsify": [{}, {"pattern": "2:4"}],
    "quantize": [{}, {"tool": "nncf"}, {"scheme": "int8_dynamic"}, {"scheme": "weight_only"}, {"scheme": "fp16"}],
}
"""Fields of a step that make it another one; the defaults where there are none."""
HALVES = {name: {name: {"precision": "fp16"}} for name in ("eager", "compiled")}
"""Runtimes that turn floats into halves themselves: no step is needed."""
ABSENT = {
    ("nncf", "torch"): "NNCF's networks of PyTorch are of its own layers, which only pickle saves",
    ("int8_dynamic", "torch"): "torch has dynamic INT8 for linear and recurrent layers, not for convolutions",
    ("fp16", "torch"): "a runtime of torch turns floats into halves itself, by a field, or not at all",
    ("weight_only", "torch"): "torch and torchao have INT8 weights alone for linear layers, not for convolutions",
}
"""(tool or scheme, what the runtime loads) → why there is no such recipe."""


def kind(fields: dict[str, Any]) -> str:
    return str(fields.get("scheme", fields.get("tool", "")))


def cells() -> list[Any]:
    found = []
    for runtime in RUNTIMES.names:
        for name in STEPS.names:
            if name == "export":
                continue  # not a compression: put in where a runtime asks for it
            for fields in WAYS.get(name, [{}]):
                how: Any = runtime
                steps = [{name: fields}]
                if kind(fields) == "fp16" and runtime in HALVES:
                    steps, how = [], HALVES[runtime]
                reason = None if how is not runtime else ABSENT.get((kind(fields), RUNTIMES.load(runtime).accepts))
                marks = [pytest.mark.xfail(strict=True, reason=reason, raises=ValueError)] if reason else []
                found.append(pytest.param(steps, how, id=f"{name}-{fields}-{runtime}", marks=marks))
    return found


CELLS = cells()


@pytest.mark.parametrize(("steps", "runtime"), CELLS)
def test_there_is_such_a_recipe(steps: list[Any], runtime: Any) -> None:
    assert Recipe.model_validate({"steps": steps, "runtime": runtime}).chain is not None
