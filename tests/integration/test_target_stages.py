"""A trial for two targets: its network is built once, timed on each before the training, and trained once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.errors import NodeLostError
from paretune.core.target import Target
from paretune.detectors import DETECTORS
from paretune.networks.network_files import save_network
from paretune.storage.target_records import TargetFigures, on_target
from paretune.storage.trial_events import read_events
from paretune.storage.trial_record import STAGES, STOPPED, Record, read_record, write_record
from paretune.workflows import step_chain, structure_first, target_measuring, trial
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments
from tests_support_compression import MixedDetector, model
from tests_support_records import no_latency
from tests_support_targets import duet, on_both

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

JOB: dict[str, Any] = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": "mixed",
    "input_size": "64x48",
    "space": "none.yaml",
    "training": {"threads": 1},
    "targets": {"one": {"threads": 1}, "two": {"threads": 2}},
    "measuring": {"energy_seconds": 0, "repetitions": 2, "max_extra_repetitions": 0, "seconds": 0.05},
}
TRAINED = [{"prune": {"ratio": 0.5, "round_to": 4}}, {"finetune": {"epochs": 2}}]
RECIPE = Recipe.model_validate({"input_size": "64x48", "steps": TRAINED, "runtime": "eager"})


def ran(context: TrialContext, number: int, *, origin: str = "sampled") -> Record:
    recipe = RECIPE if number else Recipe.model_validate({"input_size": "64x48", "runtime": "eager"})
    record = trial.run(context, number, recipe, origin=origin, instruments=Instruments(duet=no_latency))
    assert record is not None
    return record


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialContext]:
    """A sweep whose eager baseline takes 9 ms on one target and 7 ms on the other."""
    monkeypatch.setitem(DETECTORS.rows, "mixed", "tests_support_compression:MixedDetector")
    monkeypatch.setattr(step_chain, "DEAR", 0.0)  # the steps of so small a network take milliseconds
    before = torch.get_num_threads()
    job = Job.model_validate(JOB)
    save_network(model(MixedDetector()).network, tmp_path / "baseline")
    made = TrialContext(job, job.dataset.open(tmp_path / "cache"), tmp_path / "sweep", tmp_path / "baseline")
    first = ran(made, 0, origin="baseline")
    assert first.state == "complete", first.failure
    (made.folder / "trials" / "0000" / "record.json").unlink()
    write_record(made.folder, on_both(0, 0.5, 9.0, 7.0, origin="baseline", artefact=first.artefact))
    (made.folder / "sweep.json").write_text('{"job": ' + made.job.model_dump_json() + "}")
    yield made
    torch.set_num_threads(before)


def limited(context: TrialContext, limit: float, **targets: Any) -> TrialContext:
    job = Job.model_validate({**JOB, "constraints": {"latency_ms": {"max": limit}}, **targets})
    (context.folder / "sweep.json").write_text('{"job": ' + job.model_dump_json() + "}")
    return dataclasses.replace(context, job=job)


def timing(monkeypatch: pytest.MonkeyPatch, shares: dict[int, float]) -> list[Target]:
    """Replace the timing of networks by a share for each number of threads; returns the targets that were timed."""
    timed: list[Target] = []

    def share(_one: Any, _beside: Any, tools: Any) -> float:
        timed.append(tools.target)
        return shares[tools.target.threads]

    monkeypatch.setattr(structure_first, "_timed", share)
    return timed


def test_a_version_that_is_too_slow_on_every_target_is_not_trained(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = timing(monkeypatch, {1: 0.8, 2: 0.9})
    record = ran(limited(context, 4.0), 2)
    assert [target.threads for target in timed] == [1, 2]
    assert record.state == "stopped"
    known = record.facts[STOPPED]["metrics"]
    assert known["expected_latency_ms"] == pytest.approx(0.8 * 9)
    assert known["expected_latency_ms@two"] == pytest.approx(0.9 * 7)
    assert on_target(record, "two").expected["latency_ms"] == pytest.approx(0.9 * 7)
    reason = str(record.stop_reason)
    assert reason.startswith("one: expected latency_ms 7.2 is over the limit of 4; two: expected latency_ms 6.3 is")


@pytest.mark.parametrize("shares", [{1: 0.9, 2: 0.1}, {1: 0.1, 2: 0.9}])
def test_a_version_that_one_target_wants_is_trained_once(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch, shares: dict[int, float]
) -> None:
    timing(monkeypatch, shares)
    record = ran(limited(context, 4.0), 2)
    assert record.state == "complete", record.failure
    names = [stage["stage"] for stage in record.facts[STAGES]]
    assert names.count("finetune") == names.count("evaluate") == names.count("measure") == 1
    assert names.count("measure_two") == 1
    begun = [event.stage for event in read_events(context.trial_folder(2)) if event.kind == "begin"]
    assert begun.count("finetune") == 1
    assert list(record.targets) == ["one", "two"]
    assert record.targets["two"]["metrics"]["latency_ms"] == on_target(record, "two").metrics["latency_ms"]


def test_a_target_on_another_node_may_want_any_version_and_its_loss_ends_no_trial(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = timing(monkeypatch, {1: 0.9})
    far = limited(context, 4.0, targets={"one": {}, "two": {"threads": 2, "labels": {"board": "jetson"}}})
    lost = NodeLostError("the node died")

    def gone(*_: Any) -> Any:
        raise lost

    with pytest.raises(NodeLostError, match="target two: the node died"):
        trial.run(far, 2, RECIPE, origin="sampled", instruments=Instruments(duet=no_latency, elsewhere=gone))
    assert timed == []
    events = read_events(context.trial_folder(2))
    assert [event.stage for event in events if event.kind == "begin"].count("finetune") == 1
    assert (events[-1].kind, events[-1].reason) == ("failed", "target two: the node died")
    assert read_record(context.folder, 2) is None
    found = TargetFigures({"latency_ms_p50": 3.0}, facts={"duet": duet(0.4, 3.0)})
    tools = Instruments(duet=no_latency, elsewhere=lambda *_: found)
    record = trial.run(far, 2, RECIPE, origin="sampled", instruments=tools)
    assert record is not None
    assert record.state == "complete", record.failure
    reused = {stage["stage"]: stage["reused"] for stage in record.facts[STAGES]}
    assert reused["finetune"]  # it is not trained again
    assert on_target(record, "two").metrics["latency_ms_p50"] == 3.0


def test_a_node_measures_the_artefact_in_the_shared_folder_beside_the_baseline_there(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = limited(context, 100.0, targets={"one": {}, "two": {"threads": 2, "labels": {"board": "jetson"}}})
    asked: list[Any] = []

    def duet_of(folder: Path, beside: Path, images: Any, target: Target, _protocol: Any, **_: Any) -> Any:
        asked.append((folder, beside, len(images), target.threads))
        return no_latency()

    monkeypatch.setattr(target_measuring, "Instruments", lambda: Instruments(duet=duet_of))

    def elsewhere(given: TrialContext, number: int, name: str) -> TargetFigures:
        return target_measuring.measure_on_node(str(given.folder.parent), given.folder.name, number, name)

    tools = Instruments(duet=no_latency, elsewhere=elsewhere)
    record = trial.run(far, 2, RECIPE, origin="enqueued", instruments=tools)
    assert record is not None
    assert record.state == "complete", record.failure
    trials = context.folder / "trials"
    assert asked == [(trials / "0002" / "artefact", trials / "0000" / "artefact", 4, 2)]
    assert (trials / "0002" / "samples-two.npz").exists() == (trials / "0002" / "samples.npz").exists()
    assert record.targets["two"]["facts"]["duet"]["reference"] == 0
