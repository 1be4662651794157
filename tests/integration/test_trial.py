"""A trial tells how near its artefact is to the network it was made from, and fails where it is another."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.compression.base import Context
from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.target import Target
from paretune.core.types import LeftOut
from paretune.profiling.energy.measure import Energy
from paretune.runtimes import openvino
from paretune.runtimes.predictor import Predictor
from paretune.storage.trial_record import Record
from paretune.workflows import trial
from paretune.workflows.recipe_source import read_source
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments
from tests_support_compression import MIXED_JOB as JOB
from tests_support_compression import mixed_trials
from tests_support_records import no_latency

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def context(tmp_path: Path) -> Iterator[TrialContext]:
    with mixed_trials(tmp_path) as trials:
        yield trials


def ran(context: TrialContext, instruments: Instruments = Instruments(duet=no_latency), **recipe: Any) -> Record:  # noqa: B008
    what = Recipe.model_validate({"input_size": "64x48", **recipe})
    return trial.run(context, 2, what, origin="sampled", instruments=instruments)


@pytest.mark.parametrize(("promised", "threads"), [("", 2), ("1", 1), ("2", 2), ("64", 2)])
def test_it_trains_with_its_share_of_the_cores_it_may_run_on(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch, promised: str, threads: int
) -> None:
    seen = []

    def build(_start: Any, _recipe: Any, context: Context, *_: Any, **__: Any) -> None:
        seen.append(context.training.threads)
        raise ValueError("enough seen")

    free = {"training": {"threads": 0}}
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 7})
    monkeypatch.setenv("OMP_NUM_THREADS", promised)
    ran(dataclasses.replace(context, job=Job.model_validate(JOB | free)), Instruments(build), runtime="eager")
    assert seen == [threads]


def test_an_artefact_that_is_its_network_is_told_so(context: TrialContext) -> None:
    lost = LeftOut("boxes", 2, "without area", "a.xml: object 1")
    data = dataclasses.replace(context.data, left_out=(lost,))
    record = ran(dataclasses.replace(context, data=data), runtime="eager")
    assert record.facts["left_out"] == [dataclasses.asdict(lost)]
    assert record.state == "complete", record.failure
    assert record.metrics["parity_error"] < 1e-5
    assert "parity_boxes" not in record.metrics  # the detector of the tests finds nothing


@pytest.mark.parametrize("steps", [[], [{"quantize": {"images": 8}}]], ids=["float", "int8"])
def test_an_image_goes_through_the_artefact_once(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch, steps: Any
) -> None:
    asked, infer = [], Predictor.__call__
    monkeypatch.setattr(Predictor, "__call__", lambda self, image: asked.append(image) or infer(self, image))
    record = ran(context, runtime="eager", steps=steps)
    assert record.state == "complete", record.failure
    assert len(asked) == 4
    assert ("parity_map" in record.metrics) == bool(steps)


def test_a_record_names_the_precision_of_each_class_and_the_worst_images(context: TrialContext) -> None:
    record = ran(context, runtime="eager")
    val = context.data.splits["val"]
    assert list(record.facts["classes"]) == list(context.data.classes)
    present = {context.data.classes[label] for place in range(len(val)) for label in val.annotations(place).labels}
    assert {name for name, value in record.facts["classes"].items() if value is not None} == present
    assert record.facts["worst_images"] == []  # nothing was found at any confidence


def test_what_an_inference_takes_is_told_or_why_it_is_not(context: TrialContext) -> None:
    record = ran(context, runtime="eager")
    assert record.reasons["energy_mj_image"] == "it is not taken: measuring.energy_seconds is 0"
    assert record.facts["energy"].startswith("unavailable:")
    asked = []

    def taken(folder: Path, _images: Any, target: Target, *, seconds: float) -> Energy:
        asked.append((folder, target, seconds))
        why = {"energy_mj_image_net": "idle power is not known"}
        return Energy("rapl", mj_image=12.5, notes=("contended: others",), reasons=why)

    job = Job.model_validate(JOB | {"measuring": {"energy_seconds": 8}})
    measuring = Instruments(duet=no_latency, energy=taken)
    record = ran(dataclasses.replace(context, job=job), measuring, runtime="eager")
    assert asked == [(context.trial_folder(2) / "artefact", job.target, 8)]
    assert record.metrics["energy_mj_image"] == 12.5
    assert record.reasons["energy_mj_image_net"] == "idle power is not known"
    assert "energy: contended: others" in record.notes
    assert record.facts["energy"] == "rapl"


def test_int8_is_compared_with_the_float_network_it_was_made_from(context: TrialContext) -> None:
    record = ran(context, runtime="eager", steps=[{"prune": {"ratio": 0.5}}, {"quantize": {"images": 8}}])
    assert record.state == "complete", record.failure
    assert 1e-4 < record.metrics["parity_error"] < 0.5


def test_a_file_that_is_clustered_by_intent_is_not_taken_for_a_wrong_one(context: TrialContext) -> None:
    record = ran(context, runtime="onnxruntime", steps=[{"cluster": {"bits": 2}}])
    assert record.state == "complete", record.failure
    assert record.metrics["parity_error"] > 1e-3


def test_a_step_that_changes_nothing_is_refused(context: TrialContext) -> None:
    record = ran(context, runtime="eager", steps=[{"prune": {"ratio": 0.01, "round_to": 64}}])
    assert record.state == "failed"
    assert record.failure.startswith("UserError: refused: prune changed nothing: ratio 0.01")


def test_what_the_machine_cannot_run_is_refused_before_it_is_built(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "cpu_has_bfloat16", lambda: False)
    record = ran(context, runtime={"openvino": {"precision": "bf16"}})
    assert record.failure.startswith("UserError: openvino: this CPU does not compute bfloat16")
    assert record.runtime_unavailable
    assert record.seconds == {}


def test_a_runtime_whose_compiler_is_missing_fails_one_trial_before_it_is_built(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    record = ran(context, runtime="compiled", steps=[{"prune": {"ratio": 0.5}}])
    assert record.failure.startswith("UserError: runtime 'compiled' needs a C++ compiler")
    assert record.runtime_unavailable
    assert record.seconds == {}


def test_a_wrong_artefact_fails_the_trial_and_names_the_layer(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paretune.networks import network_files as structure

    save = structure.save_network

    def spoiling(network: torch.nn.Module, folder: Path) -> None:
        with torch.no_grad():
            network = structure.copy_network(network)
            network.plain[0].weight.mul_(2)
        save(network, folder)

    monkeypatch.setattr(structure, "save_network", spoiling)
    record = ran(context, runtime="eager")
    assert record.state == "failed"
    assert record.failure.startswith("RuntimeError: parity: output ")
    assert record.failure.endswith("first diverging layer: plain.0")


def fails(*_: Any, **__: Any) -> None:
    raise RuntimeError("out of memory")


SHORT = {"epochs": 1, "lr_factor": 0.1}


def test_what_was_trained_is_kept_when_a_later_step_fails_and_can_be_gone_on_from(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paretune.compression.finetune import Finetune
    from paretune.compression.quantize.step import Quantize
    from paretune.networks.network_files import load_network

    made, before = [], Finetune.apply

    def seen(step: Finetune, given: Any, context: Context) -> Any:
        made.append(before(step, given, context))
        return made[-1]

    monkeypatch.setattr(Finetune, "apply", seen)
    monkeypatch.setattr(Quantize, "apply", fails)
    steps = [{"prune": {"ratio": 0.5}}, {"finetune": SHORT}, {"quantize": {"images": 8}}]
    record = ran(context, runtime="onnxruntime", steps=steps)
    folder = context.trial_folder(2)
    assert record.failure == "RuntimeError: out of memory"
    assert record.facts["kept"] == "trials/0002/trained"
    assert str(folder / "trained") in (folder / "failure.txt").read_text()
    assert not (folder / "work").exists()
    source = read_source(folder / "trained")
    assert [next(iter(step)) for step in source.start.steps] == ["prune", "finetune"]
    kept = load_network(source.detector, len(source.classes), source.start.folder).state_dict()
    trained = made[0].network.state_dict()
    assert kept.keys() == trained.keys()
    assert all(torch.equal(kept[name], trained[name]) for name in kept)


def test_a_trial_that_is_run_again_and_does_not_fail_keeps_no_more_than_its_artefact(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paretune.compression.export import Export
    from paretune.storage.trial_record import forget_record

    steps = [{"finetune": SHORT}]
    with monkeypatch.context() as patch:
        patch.setattr(Export, "apply", fails)
        assert ran(context, runtime="onnxruntime", steps=steps).facts["kept"] == "trials/0002/trained"
    (context.trial_folder(2) / "record.json").unlink()
    record = ran(context, runtime="onnxruntime", steps=steps)
    assert record.state == "complete", record.failure
    assert not (context.trial_folder(2) / "trained").exists()
    forget_record(context.folder, 2)
    assert not context.trial_folder(2).exists()


def test_nothing_is_kept_where_nothing_was_trained(context: TrialContext, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.compression.export import Export

    monkeypatch.setattr(Export, "apply", fails)
    for steps in ([{"prune": {"ratio": 0.5}}], [{"prune": {"ratio": 0.5}}, {"finetune": {"epochs": 0}}]):
        record = ran(context, runtime="onnxruntime", steps=steps)
        assert record.state == "failed"
        assert "kept" not in record.facts
        assert [path.name for path in context.trial_folder(2).iterdir() if path.is_dir()] == []
        (context.trial_folder(2) / "record.json").unlink()


def test_a_disk_that_is_full_hides_no_failure(context: TrialContext, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.compression.export import Export

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Export, "apply", fails)
    monkeypatch.setattr("paretune.runtimes.artefact_writer.write_artefact", full)
    record = ran(context, runtime="onnxruntime", steps=[{"finetune": SHORT}])
    assert record.failure == "RuntimeError: out of memory"
    assert "kept" not in record.facts


def test_an_artefact_whose_measurement_fails_is_named_too(context: TrialContext) -> None:
    record = ran(context, Instruments(duet=fails), runtime="eager")
    assert record.state == "failed"
    assert record.facts["kept"] == "trials/0002/artefact"
    assert read_source(context.folder / record.facts["kept"]).classes


def test_the_seconds_of_each_stage_are_those_of_the_clock(context: TrialContext) -> None:
    ticks = iter(range(100))
    record = ran(context, Instruments(duet=no_latency, clock=lambda: next(ticks)), runtime="eager")
    assert record.seconds == {"load": 1, "write": 1, "evaluate": 1, "measure": 1, "energy": 1}
