"""A stage's key changes with everything that its result depends on, and with nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from paretune.compression import STEPS
from paretune.compression.base import ALL_PARTS, Context, Step
from paretune.compression.stage_key import network_key, step_key
from paretune.core.model import Model
from paretune.core.spec import parse_plugin
from paretune.core.target import Target
from paretune.core.types import InputSize, Thresholds
from paretune.networks.network_files import save_network
from paretune.runtimes.eager import Eager
from paretune.testing.samples import sample_context, sample_model


@pytest.fixture
def context(tmp_path: Path) -> Context:
    save_network(sample_model().torch_network, tmp_path / "baseline")
    return sample_context(tmp_path / "work", baseline=tmp_path / "baseline", runtime=Eager())


def other(context: Context, part: str, folder: Path) -> Context:
    """Return the context with another value of one part."""
    if part == "baseline":
        save_network(sample_model(seed=7).torch_network, folder)
    values: dict[str, dict[str, Any]] = {
        "data": {"data": dataclasses.replace(context.data, fingerprint="other")},
        "training": {"training": context.training.model_copy(update={"lr": 0.123})},
        "seed": {"seed": 99},
        "baseline": {"baseline": folder},
        "runtime": {"runtime": Eager(channels_last=True)},
        "target": {"target": Target(threads=2)},
        "thresholds": {"thresholds": Thresholds(detections=7)},
    }
    return dataclasses.replace(context, **values[part])


STEPS_AND_PARTS = [
    (step, part)
    for step in (
        "prune",
        {"prune": {"importance": "taylor"}},
        {"prune": {"budget": "latency"}},
        {"prune": {"rounds": 2, "round_epochs": 1}},
        "finetune",
        {"finetune": {"distill": {}}},
        {"finetune": {"qat": True}},
        "factorize",
        "sparsify",
        "cluster",
        "recalibrate",
        "export",
        "quantize",
        {"quantize": {"max_drop": 0.01}},
    )
    for part in sorted(ALL_PARTS - {"machine"})
]


@pytest.mark.parametrize(("written", "part"), STEPS_AND_PARTS, ids=str)
def test_a_key_changes_with_what_the_step_declares_alone(
    context: Context, tmp_path: Path, written: Any, part: Any
) -> None:
    step: Step = parse_plugin(written, STEPS)
    before, after = step_key("0", step, context), step_key("0", step, other(context, part, tmp_path / "other"))
    depends = part in step.uses() or (part == "target" and "machine" in step.uses())
    assert (before != after) == depends


def test_a_key_changes_with_the_step_its_fields_its_revision_and_what_came_before(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune: Step = parse_plugin({"prune": {"ratio": 0.3}}, STEPS)
    key = step_key("0", prune, context)
    assert step_key("0", parse_plugin({"prune": {"ratio": 0.3}}, STEPS), context) == key
    assert step_key("1", prune, context) != key
    assert step_key("0", parse_plugin({"prune": {"ratio": 0.4}}, STEPS), context) != key
    assert step_key("0", parse_plugin("sparsify", STEPS), context) != key
    monkeypatch.setattr(type(prune), "revision", 2)
    assert step_key("0", prune, context) != key


def test_a_named_teacher_is_known_by_its_weights(context: Context, tmp_path: Path) -> None:
    save_network(sample_model(seed=1).torch_network, tmp_path / "teacher")
    step: Step = parse_plugin({"finetune": {"distill": {"teacher": str(tmp_path / "teacher")}}}, STEPS)
    key = step_key("0", step, context)
    assert step_key("0", step, context) == key
    save_network(sample_model(seed=2).torch_network, tmp_path / "teacher")
    assert step_key("0", step, context) != key


def test_the_key_of_a_network_changes_with_weights_size_and_past_steps(context: Context, tmp_path: Path) -> None:
    folder, size = tmp_path / "baseline", InputSize(64, 48)
    keys = [
        network_key(folder, context, size),
        network_key(folder, context, InputSize(64, 64)),
        network_key(folder, context, size, ({"prune": {"ratio": 0.5}},)),
    ]
    save_network(sample_model(seed=3).torch_network, folder)
    assert len({*keys, network_key(folder, context, size)}) == 4


class Peeking(Step):
    """A step that uses a part of the context that it does not declare."""

    name = "peeking"

    def uses(self) -> frozenset[Any]:
        """Return nothing."""
        return frozenset()

    def _apply(self, model: Model, context: Context) -> Model:
        return model.noted(f"seed {context.seed}")


def test_a_step_cannot_use_what_it_does_not_declare(context: Context) -> None:
    with pytest.raises(RuntimeError, match=r"context\.seed.*'seed'"):
        Peeking().apply(sample_model(), context)


def test_what_needs_no_declaration_is_there_and_a_part_once_withheld_stays_so(context: Context, tmp_path: Path) -> None:
    narrow = context.restricted({"seed", "data"}).restricted({"seed", "runtime"})
    assert narrow.seed == context.seed
    assert narrow.in_folder(tmp_path).workdir == tmp_path
    assert narrow.in_folder(tmp_path).classes == context.data.classes
    assert narrow.detector is context.detector
    for withheld in ("data", "runtime"):
        with pytest.raises(RuntimeError, match=withheld):
            getattr(narrow, withheld)
