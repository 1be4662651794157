"""What every compression step must do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from paretune.compression import STEPS
from paretune.compression.base import Step
from paretune.compression.export import Export
from paretune.compression.saved_model import load_model, save_model
from paretune.core.model import Accepted, Format, Model
from paretune.core.registry import Registry
from paretune.core.spec import parse_plugin
from paretune.testing.plugin_contract import PluginContract
from paretune.testing.samples import same_state, sample_context, sample_model, state_copy

FORMATS: dict[Accepted, tuple[Format, ...]] = {"torch": ("torch",), "onnx": ("onnx",), "either": ("torch", "onnx")}
"""What a step accepts, and the formats that it is tested with."""


class StepContract(PluginContract):
    """Tests of one step, with fields that make it quick, on a small network or its exported file."""

    plugin: ClassVar[Step]
    idle: ClassVar[Mapping[str, Any] | None] = None
    """Fields with which it does nothing, where there are such."""
    table: ClassVar[Registry[Any]] = STEPS
    table_module = "paretune.compression"
    table_name = "STEPS"
    heavy = ("torch", "torch_pruning", "onnx", "onnxruntime", "nncf", "cv2")

    @pytest.fixture
    def idle_fields(self) -> Mapping[str, Any] | None:
        """Return fields with which it does nothing."""
        return self.idle

    @pytest.fixture(params=["torch", "onnx"])
    def form(self, request: pytest.FixtureRequest, subject: Step) -> Format:
        """Return a format that it takes."""
        given: Format = request.param
        if given not in FORMATS[subject.accepts]:
            pytest.skip(f"{subject.name} takes no {given}")
        return given

    @pytest.fixture
    def before(self, form: Format, tmp_path: Path) -> Model:
        """Return a small model in that format."""
        return (
            sample_model() if form == "torch" else Export().apply(sample_model(), sample_context(tmp_path / "before"))
        )

    def test_every_field_has_a_default(self, subject: Step) -> None:
        """Its name alone is a step."""
        assert type(subject)() == parse_plugin(subject.name, self.table)
        assert parse_plugin(type(subject)().named(), self.table) == type(subject)()

    def test_leaves_history_and_counts_to_the_base(self, subject: Step) -> None:
        """It writes ``_apply`` only, so that every model has its history, counts and weight properties."""
        assert type(subject).apply is Step.apply

    def test_its_result_can_be_stored(self, subject: Step, before: Model, tmp_path: Path) -> None:
        """The result read from disk is equal, so another trial may go on from it."""
        context = sample_context(tmp_path / "work")
        after = subject.apply(before, context)
        facts = json.loads(json.dumps(save_model(after, tmp_path / "stored")))
        stored = load_model(facts, tmp_path / "stored", context)
        assert same_content(content(after), content(stored))
        for field in ("input_size", "history", "notes", "params", "flops", "calibration", "file_format", "changed"):
            assert getattr(stored, field) == getattr(after, field), field
        assert stored.weight_properties == after.weight_properties
        assert list(stored.more) == list(after.more)

    def test_keeps_its_promises_and_leaves_what_it_was_given(
        self, subject: Step, before: Model, tmp_path: Path
    ) -> None:
        """The result has the promised format, its history and counts; the model that was given is unchanged."""
        kept = content(before)
        lines: list[str] = []
        after = subject.apply(before, sample_context(tmp_path / "work", progress=lines.append))
        assert after.format == (subject.produces or before.format)
        assert after.history == (*before.history, subject.name)
        assert after.input_size == before.input_size
        assert after.weight_properties == subject.makes
        assert after.params
        assert after.flops
        assert same_content(kept, content(before))
        if after.network is not None:
            assert not after.network.training
            assert after.network is not before.network
            assert all(tensor.device.type == "cpu" for tensor in after.network.state_dict().values())
        if after.file is not None:
            assert after.file.parent == tmp_path / "work"
        assert all(isinstance(line, str) and "\n" not in line for line in lines)

    def test_the_same_seed_gives_the_same(self, subject: Step, before: Model, tmp_path: Path) -> None:
        """Two runs with one seed give equal models and equal notes."""
        first, second = (subject.apply(before, sample_context(tmp_path / folder, seed=5)) for folder in ("a", "b"))
        assert same_content(content(first), content(second))
        assert first.notes == second.notes

    def test_changes_something_or_notes_that_it_does_not(
        self, subject: Step, before: Model, idle_fields: Mapping[str, Any] | None, tmp_path: Path
    ) -> None:
        """A step that changed nothing says so by ``Model.changed`` and a note, and no other step does."""
        idle = None if idle_fields is None else type(subject).model_validate(dict(idle_fields))
        for step in (subject, idle):
            if step is None or step.unsupported_fields(before.format):
                continue
            after = step.apply(before, sample_context(tmp_path / "work"))
            unchanged = after.format == before.format and same_content(content(before), content(after))
            assert unchanged == (not after.changed)
            assert after.changed or f"{step.name} changed nothing" in after.notes[-1]


def content(model: Model) -> dict[str, Any] | bytes:
    """Return a copy of all that a model computes with."""
    if model.network is not None:
        return state_copy(model.network)
    assert model.file is not None
    return model.file.read_bytes()


def same_content(one: dict[str, Any] | bytes, other: dict[str, Any] | bytes) -> bool:
    """Return whether two models compute with the same."""
    if isinstance(one, bytes) or isinstance(other, bytes):
        return one == other
    return same_state(one, other)
