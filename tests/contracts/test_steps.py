"""What every step must do, asked of every row of the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paretune.compression import STEPS
from paretune.compression.base import Step
from paretune.compression.export import Export
from paretune.core.model import Accepted, Format, Model
from paretune.core.spec import parse_plugin
from tests_support import heavy_imports
from tests_support_compression import context, model, same_state, state

NAMES = STEPS.names
QUICK: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 1},
    "quantize": {"images": 4},
    "factorize": {"rank": 0.25},
    "recalibrate": {"images": 4},
}
"""Fields with which a step is quick; the defaults where there are none."""
IDLE: dict[str, dict[str, Any]] = {
    "finetune": {"epochs": 0},
    "prune": {"ratio": 0.0},
    "factorize": {"rank": 1.0},
    "sparsify": {"sparsity": 0.0},
    "quantize": {"images": 4, "keep_float": 1000},
}
"""Fields with which a step does nothing, where there are such."""


FORMATS: dict[Accepted, tuple[Format, ...]] = {"torch": ("torch",), "onnx": ("onnx",), "either": ("torch", "onnx")}
ROWS = [(name, form) for name in NAMES for form in FORMATS[STEPS.load(name).accepts]]


@pytest.fixture(params=ROWS, ids="-".join)
def row(request: pytest.FixtureRequest) -> tuple[str, Format]:
    """A step, and a format that it takes."""
    found: tuple[str, Format] = request.param
    return found


@pytest.fixture
def step(row: tuple[str, Format]) -> Step:
    found: Step = parse_plugin({row[0]: QUICK.get(row[0], {})}, STEPS)
    return found


@pytest.fixture
def before(row: tuple[str, Format], tmp_path: Path) -> Model:
    """The model in that format."""
    return model() if row[1] == "torch" else Export().apply(model(), context(tmp_path / "before"))


def content(found: Model) -> dict[str, Any] | bytes:
    """All that a model computes with."""
    if found.network is not None:
        return state(found.network)
    assert found.file is not None
    return found.file.read_bytes()


def same(a: Model, b: Model) -> bool:
    one, other = content(a), content(b)
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return same_state(one, other)


def test_importing_their_files_imports_no_heavy_library() -> None:
    assert (
        heavy_imports("paretune.compression", "STEPS", ("torch", "torch_pruning", "onnx", "onnxruntime", "nncf", "cv2"))
        == ""
    )


def test_is_documented_and_survives_json(step: Step) -> None:
    assert step.name in NAMES
    assert type(step).__doc__
    assert all(field.description for field in type(step).model_fields.values())
    for written in (step, type(step)()):
        assert parse_plugin(json.loads(json.dumps(written.named())), STEPS) == written


def test_every_field_has_a_default(step: Step) -> None:
    assert type(step)() == parse_plugin(step.name, STEPS)


def test_leaves_the_history_and_the_counts_to_the_base(step: Step) -> None:
    assert type(step).apply is Step.apply


def test_makes_what_it_says_and_leaves_what_it_was_given(step: Step, before: Model, tmp_path: Path) -> None:
    kept = content(before)
    lines: list[str] = []
    after = step.apply(before, context(tmp_path / "work", progress=lines.append))
    assert after.format == (step.produces or before.format)
    assert after.history == (*before.history, step.name)
    assert after.input_size == before.input_size
    assert after.weight_properties == step.makes
    assert after.params
    assert after.flops
    again = content(before)
    assert kept == again if isinstance(kept, bytes) else same_state(kept, again)
    if after.network is not None:
        assert not after.network.training
        assert after.network is not before.network
        assert all(tensor.device.type == "cpu" for tensor in after.network.state_dict().values())
    if after.file is not None:
        assert after.file.parent == tmp_path / "work"
    assert all(isinstance(line, str) and "\n" not in line for line in lines)


@pytest.mark.slow
def test_the_same_seed_gives_the_same(step: Step, before: Model, tmp_path: Path) -> None:
    first, second = (step.apply(before, context(tmp_path / folder, seed=5)) for folder in ("a", "b"))
    assert same(first, second)
    assert first.notes == second.notes


@pytest.mark.slow
def test_changes_something_or_says_so(step: Step, before: Model, tmp_path: Path) -> None:
    for fields in (QUICK.get(step.name, {}), IDLE.get(step.name)):
        if fields is None or type(step).model_validate(fields).unsupported_fields(before.format):
            continue
        after = type(step).model_validate(fields).apply(before, context(tmp_path / "work"))
        idle = after.format == before.format and same(before, after)
        assert idle == (not after.changed)
        assert after.changed or f"{step.name} changed nothing" in after.notes[-1]


def test_every_row_that_can_do_nothing_is_asked_to() -> None:
    assert set(IDLE) <= set(NAMES)
    assert set(QUICK) <= set(NAMES)
