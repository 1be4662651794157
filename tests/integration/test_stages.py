"""Trials share the results of their steps, may be stopped between stages, and time a network before it is trained."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.networks.network_files import load_network, save_network
from paretune.storage.artefact import NETWORK
from paretune.storage.stage_store import StageStore
from paretune.storage.trial_events import read_events
from paretune.storage.trial_record import STAGES, STOPPED, Record, read_record, trial_folder, write_record
from paretune.workflows import rungs, step_chain, structure_first, trial
from paretune.workflows.stages import PartialResult, TrialPaused
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments
from tests_support_compression import MIXED_JOB as JOB
from tests_support_compression import MixedDetector, mixed_trials, model
from tests_support_records import complete, no_latency, recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TRAINED = [{"prune": {"ratio": 0.5, "round_to": 4}}, {"finetune": {"epochs": 2}}]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialContext]:
    monkeypatch.setattr(step_chain, "DEAR", 0.0)  # the steps of so small a network take milliseconds
    with mixed_trials(tmp_path) as trials:
        yield trials


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the steps that are computed from now on."""
    names: list[str] = []
    for step in (Prune, Finetune):
        original = step._apply

        def counting(self: Any, *given: Any, original: Any = original) -> Any:
            names.append(self.name)
            return original(self, *given)

        monkeypatch.setattr(step, "_apply", counting)
    return names


def ran(
    context: TrialContext, number: int, *, decide: Any = lambda _: None, origin: str = "enqueued", **recipe: Any
) -> Record:
    what = Recipe.model_validate({"input_size": "64x48", "runtime": "eager", **recipe})
    record = trial.run(context, number, what, origin=origin, instruments=Instruments(duet=no_latency), decide=decide)
    assert record is not None
    assert record == read_record(context.folder, number)
    return record


def network_of(context: TrialContext, record: Record) -> dict[str, torch.Tensor]:
    folder = context.folder / str(record.artefact)
    folder = folder / NETWORK if (folder / NETWORK).is_dir() else folder
    return load_network(context.job.detector, len(context.data.classes), folder).state_dict()


def stages_of(record: Record) -> list[tuple[str, bool]]:
    return [(entry["stage"], entry["reused"]) for entry in record.facts[STAGES]]


def test_a_trained_network_is_paid_for_once(context: TrialContext, applied: list[str]) -> None:
    first = ran(context, 2, steps=TRAINED)
    assert applied == ["prune", "finetune"]
    second = ran(context, 3, steps=[*TRAINED, {"quantize": {"images": 4}}], runtime="onnxruntime")
    third = ran(context, 4, steps=TRAINED, runtime={"eager": {"channels_last": True}})
    assert {record.state for record in (first, second, third)} == {"complete"}, (second.failure, third.failure)
    assert applied == ["prune", "finetune"]
    assert stages_of(first)[:3] == [("load", False), ("prune", False), ("finetune", False)]
    assert stages_of(second)[:4] == [("load", False), ("finetune", True), ("export", False), ("quantize", False)]
    one, other = network_of(context, first), network_of(context, second)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert third.notes == first.notes
    assert third.metrics["map"] == first.metrics["map"]
    kinds = [(event.kind, event.stage) for event in read_events(trial_folder(context.folder, 3))]
    assert ("reused", "finetune") in kinds


def test_a_quantized_file_from_the_store_is_checked_against_its_float_network(
    context: TrialContext, applied: list[str]
) -> None:
    recipe: dict[str, Any] = {"steps": [*TRAINED, {"quantize": {"images": 4}}], "runtime": "onnxruntime"}
    first = ran(context, 2, **recipe)
    again = ran(context, 3, **recipe)
    assert again.state == "complete", again.failure
    assert stages_of(again)[:2] == [("load", False), ("quantize", True)]
    assert applied == ["prune", "finetune"]
    for metric in ("map", "parity_error", "size_mib", "params", "flops"):
        assert again.metrics[metric] == first.metrics[metric]
    assert 1e-4 < again.metrics["parity_error"] < 0.5
    assert again.notes == first.notes


@pytest.mark.parametrize("change", ["fields", "seed", "baseline"])
def test_what_a_step_depends_on_makes_it_run_again(
    context: TrialContext, applied: list[str], tmp_path: Path, change: str
) -> None:
    ran(context, 2, steps=TRAINED)
    steps: list[Any] = TRAINED
    if change == "fields":
        steps = [TRAINED[0], {"finetune": {"epochs": 3}}]
    elif change == "seed":
        context = dataclasses.replace(context, job=Job.model_validate({**JOB, "search": {"seed": 5}}))
    else:
        save_network(model(MixedDetector(), seed=5).network, tmp_path / "baseline")
    ran(context, 3, steps=steps)
    assert applied[2:] == (["finetune"] if change == "fields" else ["prune", "finetune"])


def test_a_flipped_byte_costs_the_step_and_no_more(context: TrialContext, applied: list[str]) -> None:
    ran(context, 2, steps=TRAINED)
    for file in (context.folder.parent / "store").glob("??/*/*/weights.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    record = ran(context, 3, steps=TRAINED)
    assert record.state == "complete"
    assert applied == ["prune", "finetune"] * 2
    assert ran(context, 4, steps=TRAINED).state == "complete"
    assert applied == ["prune", "finetune"] * 2


def test_a_store_of_no_size_stores_nothing(context: TrialContext, applied: list[str]) -> None:
    context = dataclasses.replace(context, job=Job.model_validate({**JOB, "store": {"max_gib": 0}}))
    for number in (2, 3):
        assert ran(context, number, steps=TRAINED).state == "complete"
    assert applied == ["prune", "finetune"] * 2
    assert not (context.folder.parent / "store").exists()


def test_a_stopped_trial_writes_its_record_and_frees_what_it_holds(context: TrialContext, applied: list[str]) -> None:
    def decide(result: PartialResult) -> str | None:
        return "flat" if result.epoch == 1 else None

    record = ran(context, 2, steps=TRAINED, decide=decide)
    assert (record.state, record.stop_reason, record.failure, record.artefact) == ("stopped", "flat", None, None)
    assert record.facts[STOPPED]["stage"] == "finetune"
    assert record.seconds.keys() == {"load", "prune", "finetune"}
    last = read_events(context.trial_folder(2))[-1]
    assert (last.kind, last.reason) == ("stopped", "flat")
    assert not (context.trial_folder(2) / "work").exists()
    assert not (context.trial_folder(2) / "failure.txt").exists()
    applied.clear()
    assert ran(context, 3, steps=TRAINED).state == "complete"  # the pruned network was stored
    assert applied == ["finetune"]


def measured(number: int, latency: float, quality: float, **more: Any) -> Record:
    """Return a complete record with latency and map."""
    return complete(number, recipe("64x48", runtime="eager"), quality, latency, **more)


@pytest.fixture
def referenced(context: TrialContext) -> TrialContext:
    """Return a sweep whose reference is measured."""
    first = ran(context, 0, origin="baseline")
    (context.folder / "trials" / "0000" / "record.json").unlink()
    write_record(context.folder, measured(0, 5.0, 0.5, origin="baseline", artefact=first.artefact))
    (context.folder / "sweep.json").write_text('{"job": ' + context.job.model_dump_json() + "}")
    return context


def test_a_network_is_timed_before_it_is_trained_and_equal_ones_once(
    referenced: TrialContext, applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[Any] = []
    generous = Job.model_validate({**JOB, "constraints": {"latency_ms": {"max": 1000.0}}})
    referenced = dataclasses.replace(referenced, job=generous)
    original = structure_first._timed
    monkeypatch.setattr(structure_first, "_timed", lambda *given: timed.append(1) or original(*given))
    record = ran(referenced, 2, origin="sampled", steps=TRAINED)
    assert record.state == "complete", record.failure
    assert applied == ["prune", "finetune"]  # the pruned network of the stage is the one that is trained
    (known,) = (
        event for event in read_events(referenced.trial_folder(2)) if event.stage == "structure" and event.metrics
    )
    assert 0 < known.metrics["expected_network_ms"] < known.metrics["expected_latency_ms"]
    longer = [TRAINED[0], {"finetune": {"epochs": 3}}]
    assert ran(referenced, 3, origin="sampled", steps=longer).state == "complete"
    assert timed == [1]
    nothing_to_stop_by = dataclasses.replace(referenced, job=Job.model_validate(JOB))
    record = ran(nothing_to_stop_by, 4, origin="sampled", steps=[TRAINED[0], {"finetune": {"epochs": 1}}])
    assert "structure" not in record.seconds


def test_a_network_that_is_too_slow_is_not_trained(referenced: TrialContext, applied: list[str]) -> None:
    job = Job.model_validate({**JOB, "constraints": {"latency_ms": {"max": 0.001}}})
    record = ran(dataclasses.replace(referenced, job=job), 2, origin="sampled", steps=TRAINED)
    assert record.state == "stopped"
    assert record.facts[STOPPED]["stage"] == "structure"
    assert record.facts[STOPPED]["metrics"].keys() == {"expected_network_ms", "expected_latency_ms"}
    assert "finetune" not in applied


def test_what_the_user_asked_for_is_trained_however_slow(referenced: TrialContext, applied: list[str]) -> None:
    job = Job.model_validate({**JOB, "constraints": {"latency_ms": {"max": 0.001}}})
    assert ran(dataclasses.replace(referenced, job=job), 2, origin="enqueued", steps=TRAINED).state == "complete"
    assert "finetune" in applied


def test_the_store_is_where_the_job_says(context: TrialContext, tmp_path: Path) -> None:
    job = Job.model_validate({**JOB, "store": {"url": str(tmp_path / "elsewhere")}})
    ran(dataclasses.replace(context, job=job), 2, steps=TRAINED)
    assert [stage.facts["step"] for stage in StageStore(str(tmp_path / "elsewhere")).entries()]


def test_a_training_without_memory_is_tried_once_more_with_half_of_the_batch(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    original = Finetune._apply

    def greedy(self: Any, before: Any, tools: Any) -> Any:
        batches.append(tools.training.batch_size)
        left = tools.workdir / "saved"  # as an epoch leaves it
        assert not left.exists()
        left.touch()
        if tools.training.batch_size > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, before, tools)

    monkeypatch.setattr(Finetune, "_apply", greedy)
    context = dataclasses.replace(context, job=Job.model_validate({**JOB, "training": {"threads": 1, "batch_size": 8}}))
    record = ran(context, 2, steps=TRAINED)
    assert record.state == "complete", record.failure
    assert batches == [8, 4]
    assert any("batches of 4" in note for note in record.notes)
    context = dataclasses.replace(
        context, job=Job.model_validate({**JOB, "training": {"threads": 1, "batch_size": 32}})
    )
    assert str(ran(context, 3, steps=TRAINED).failure).startswith("OutOfMemoryError")
    assert batches[2:] == [32, 16]


def test_a_full_disk_pauses_a_trial(context: TrialContext, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[Any] = []
    original = Finetune._apply

    def full_at_first(self: Any, before: Any, tools: Any) -> Any:
        if not waits:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, before, tools)

    monkeypatch.setattr(Finetune, "_apply", full_at_first)
    monkeypatch.setattr(trial, "wait_for_space", lambda folder, _: waits.append(folder))
    record = ran(context, 2, steps=TRAINED)
    assert record.state == "complete", record.failure
    assert waits == [context.folder]
    assert not (context.trial_folder(2) / "failure.txt").exists()


HALVING = {**JOB, "search": {"scheduler": {"halving": {"shares": (0.25, 0.5)}}}}


def test_a_paused_trial_goes_on_and_ends_as_if_it_had_not_been(context: TrialContext, applied: list[str]) -> None:
    context = dataclasses.replace(context, job=Job.model_validate(HALVING))
    steps = [TRAINED[0], {"finetune": {"epochs": 4}}]

    def pause(result: PartialResult) -> None:
        if result.epoch == 2:
            raise TrialPaused("not among the best")

    what = Recipe.model_validate({"input_size": "64x48", "runtime": "eager", "steps": steps})
    instruments = Instruments(duet=no_latency)
    assert trial.run(context, 2, what, origin="sampled", instruments=instruments, decide=pause) is None
    assert read_record(context.folder, 2) is None
    events = read_events(context.trial_folder(2))
    assert events[-1].kind == "paused"
    assert [event.epoch for event in events if "map" in event.metrics] == [1, 2]
    assert rungs.paused_trials(context.folder) == [2]
    before = rungs.seconds_before(context.trial_folder(2))["finetune"]
    resumed = ran(context, 2, origin="sampled", steps=steps)
    assert resumed.state == "complete"
    assert rungs.paused_trials(context.folder) == []
    assert [event.epoch for event in read_events(context.trial_folder(2)) if event.kind == "epoch"] == [1, 2, 3, 4]
    assert resumed.seconds["finetune"] > before
    unstored = dataclasses.replace(context, job=Job.model_validate({**JOB, "store": {"max_gib": 0}}))
    straight = ran(unstored, 3, steps=steps)  # without rungs: validating on the way changes nothing
    one, other = network_of(context, resumed), network_of(context, straight)
    assert all(torch.equal(one[name], other[name]) for name in one)
