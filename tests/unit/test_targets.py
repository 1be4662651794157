"""A sweep for several targets: a record as each has it, and a front, limits and files of each."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.metrics import METRICS, is_of_target
from paretune.core.target import Target
from paretune.core.types import Data
from paretune.results.front_summary import checked_front, front_json, front_text
from paretune.results.pick import PickRule
from paretune.results.search_budget import SearchBudget
from paretune.results.sweep_folder import Sweep
from paretune.storage.target_records import TargetFigures, on_target, side_by_side
from paretune.storage.trial_record import STOPPED, Record, read_record, read_records, record_file
from paretune.workflows.front_files import refresh_front
from paretune.workflows.pick import pick_from, write_bundle
from paretune.workflows.sweep_reporter import SweepReporter
from paretune.workflows.trial_context import TrialContext
from tests_support_records import changed, compared, fake_records, write_sweep
from tests_support_targets import JOB, figures, on_both, records_on_both, two_target_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return two_target_sweep(tmp_path, records_on_both())


def job_with(**more: Any) -> Job:
    return Job.model_validate({**JOB, **more})


def test_a_record_is_what_each_target_measured_and_what_all_share() -> None:
    record = on_both(4, 0.47, 1.5, 2.8)
    assert on_target(record, None) is record
    two = on_target(record, "two")
    assert two.metrics == {
        **{name: value for name, value in record.metrics.items() if name not in figures(1, 1, 1)["metrics"]},
        **figures(2.8, 2.8 / 3, 3.0)["metrics"],
    }
    assert two.facts["duet"]["reference_ms"] == 3.0
    assert two.facts["left_out"] == []
    assert (two.number, two.recipe, two.artefact) == (record.number, record.recipe, record.artefact)


def test_a_target_that_cannot_run_a_version_has_the_reason_and_no_latency() -> None:
    record = on_both(5, 0.46, None, 0.5)
    assert "latency_ms" not in record.metrics
    assert record.reasons["latency_ms"] == "cannot run it"
    two = on_target(record, "two")
    assert two.metrics["latency_ms"] == 0.5
    assert "latency_ms" not in two.reasons
    assert two.metrics["map"] == record.metrics["map"] == 0.46
    unknown = TargetFigures.unknown("no GPU")
    printed = {name for name, row in METRICS.items() if row.printed and is_of_target(name)}
    assert set(unknown.reasons) == printed
    assert {"latency_ms", "memory_mib_peak"} <= printed
    assert not {"map", "size_mib", "flops"} & printed


def test_figures_that_are_no_numbers_become_reasons() -> None:
    told = TargetFigures({"latency_ms_p50": float("nan"), "memory_mib_peak": 90.0}).checked()
    assert told.metrics == {"memory_mib_peak": 90.0}
    assert told.reasons == {"latency_ms_p50": "the measurement gave nan"}


def test_records_of_one_target_are_written_and_read_as_before(tmp_path: Path) -> None:
    records = fake_records()
    write_sweep(tmp_path, records)
    assert "targets" not in json.loads(record_file(tmp_path, 3).read_text())
    assert read_records(tmp_path) == records
    record = on_both(2, 0.5, 2.0, 2.5)
    write_sweep(tmp_path / "both", [record])
    assert read_record(tmp_path / "both", 2) == record
    assert json.loads(record_file(tmp_path / "both", 2).read_text())["targets"].keys() == {"one", "two"}
    body = asdict(record)
    assert Record(**{**body, "notes": tuple(body["notes"])}) == record


def test_a_record_from_before_a_target_was_added_is_unknown_there() -> None:
    old = fake_records()[3]
    new = on_target(old, "two")
    assert not [name for name in new.metrics if is_of_target(name)]
    assert new.reasons["latency_ms"] == "it was not measured on two"
    assert new.metrics["map"] == old.metrics["map"]
    failed = fake_records()[10]
    assert on_target(failed, "two") == failed


def test_what_is_expected_of_a_stopped_trial_is_that_of_the_target() -> None:
    known = {"expected_latency_ms": 5.0, "expected_latency_ms@two": 4.0, "map": 0.3}
    record = Record.stopped(4, {}, {}, "sampled", "too slow", stage="structure", metrics=known, facts={})
    assert record.expected == {"latency_ms": 5.0, "latency_ms@two": 4.0}
    two = on_target(record, "two")
    assert two.expected == {"latency_ms": 4.0}
    assert two.facts[STOPPED]["metrics"] == {"expected_latency_ms": 4.0, "map": 0.3}
    assert two.stop_reason == "too slow"


def test_metrics_side_by_side_have_the_names_of_their_targets() -> None:
    wide = side_by_side(on_both(4, 0.47, 1.5, 2.8), ["two"], ["latency_ms", "memory_mib_peak"])
    assert (wide.metrics["latency_ms"], wide.metrics["latency_ms@two"]) == (1.5, 2.8)
    assert wide.metrics["memory_mib_peak@two"] == 100.0
    assert "latency_ms@two_low" not in wide.metrics
    known = on_both(4, 0.47, 1.5, 2.8)
    known.targets["two"]["metrics"]["latency_ms_low"] = 2.7
    assert side_by_side(known, ["two"], ["latency_ms"]).metrics["latency_ms@two_low"] == 2.7
    lacking = side_by_side(on_both(6, 0.45, 0.8, None), ["two"], ["latency_ms"])
    assert "latency_ms@two" not in lacking.metrics


def front_by_hand(records: list[Record], name: str) -> set[int]:
    """Trials that no other one is better than, from the figures of one target alone."""
    points = {
        record.number: (record.metrics["map"], record.targets[name]["metrics"]["latency_ms"])
        for record in records
        if "latency_ms" in record.targets[name]["metrics"]
    }
    return {
        number
        for number, (quality, latency) in points.items()
        if not any(
            (q >= quality and ms <= latency) and ((q, ms) != (quality, latency) or other < number)
            for other, (q, ms) in points.items()
            if other != number
        )
    }


@pytest.mark.parametrize("name", ["one", "two"])
def test_each_target_has_the_front_of_its_own_latencies(sweep: Sweep, name: str) -> None:
    front = checked_front(sweep, name)
    assert front["target"] == name
    assert {point["trial"] for point in front["front"]} == front_by_hand(records_on_both(), name)
    for point in front["front"]:
        record = records_on_both()[point["trial"]]
        expected = record.targets[name]["metrics"]["latency_ms"]
        assert point["metrics"]["latency_ms"] == pytest.approx(expected)
    eager = records_on_both()[0].targets[name]["metrics"]["latency_ms"]
    assert front["baseline"]["metrics"]["latency_ms"] == pytest.approx(eager)


def test_the_fronts_differ_and_the_first_is_the_default(sweep: Sweep) -> None:
    one, two = (checked_front(sweep, name) for name in ("one", "two"))
    assert {point["trial"] for point in one["front"]} != {point["trial"] for point in two["front"]}
    assert checked_front(sweep, None) == one
    with pytest.raises(UserError, match="no target 'tpu'; it has one, two"):
        checked_front(sweep, "tpu")


def test_a_limit_of_the_latency_holds_on_each_target_for_its_own_front(tmp_path: Path) -> None:
    limited = two_target_sweep(tmp_path, records_on_both(), {**JOB, "constraints": {"latency_ms": {"max": 1.2}}})
    trials = {name: [p["trial"] for p in checked_front(limited, name)["front"]] for name in ("one", "two")}
    assert trials == {"one": [6], "two": [5, 3]}
    kept = two_target_sweep(tmp_path, records_on_both(), {**JOB, "constraints": {"map": {"max_drop": 0.025}}}, "kept")
    trials = {name: [p["trial"] for p in checked_front(kept, name)["front"]] for name in ("one", "two")}
    assert trials == {"one": [2, 1], "two": [3, 2, 1]}


def test_the_printed_front_is_that_of_each_target_or_of_one(sweep: Sweep) -> None:
    text = front_text(sweep)
    assert text.index("target one (cpu, 1 thread)") < text.index("target two (cpu, 2 threads)")
    alone = front_text(sweep, "two")
    assert "target two" in alone
    assert "target one" not in alone
    printed = json.loads(front_json(sweep))
    assert list(printed["targets"]) == ["one", "two"]
    assert printed["targets"]["one"] == {key: value for key, value in printed.items() if key != "targets"}
    assert json.loads(front_json(sweep, "two")) == printed["targets"]["two"]


def test_pictures_and_comparisons_are_beside_those_of_the_first_target(sweep: Sweep) -> None:
    measured = compared(records_on_both(), {0: 2.25, 1: 1.0, 2: 0.5, 4: 0.4})
    sweep.comparison.write_text(json.dumps(measured))
    other = compared(records_on_both(), {0: 2.25, 1: 1.0, 3: 0.3})
    (sweep.folder / "comparison-two.json").write_text(json.dumps(other))
    fronts = {name: checked_front(sweep, name) for name in ("one", "two")}
    assert [point["trial"] for point in fronts["one"]["front"]] == [4, 2, 1]
    assert [point["trial"] for point in fronts["two"]["front"]] == [3, 1]
    assert fronts["two"]["decided_by"] == "comparison"
    refresh_front(sweep)
    for folder, name in (("front", "one"), ("front-two", "two")):
        drawn = json.loads((sweep.folder / folder / "front.json").read_text())
        assert (drawn["target"], drawn["front"]) == (name, fronts[name]["front"])


def test_a_bundle_is_for_its_target(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.workflows import pick as module

    monkeypatch.setattr(module, "write_copy", lambda _source, _folder, facts, _target, **_: facts)
    for name, trial, folder in (("one", 6, "recommended"), ("two", 5, "recommended-two")):
        chosen = pick_from(sweep, PickRule("recommended"), name)
        assert chosen.point["trial"] == trial
        place, facts = write_bundle(sweep.on(name), chosen)
        assert place == sweep.folder / "picked" / folder
        assert facts["target"]["name"] == name
        assert facts["target"]["threads"] == sweep.job.targets[name].threads


@pytest.mark.parametrize(("grows", "ended"), [("one", False), ("two", False), (None, True)])
def test_a_search_is_flat_only_if_it_is_on_every_target(tmp_path: Path, grows: str | None, ended: bool) -> None:
    flat = {**JOB, "search": {"stop_when_flat": {"trials": 2, "gain": 0.01}}}
    latencies = {"one": 2.0, "two": 2.0} | ({grows: 0.5} if grows else {})
    records = [*records_on_both()[:4], on_both(4, 0.48, **latencies), on_both(5, 0.2, 3.9, 3.9)]
    sweep = two_target_sweep(tmp_path, records[:1], flat)
    budget = SearchBudget(sweep, [])
    for record in records:
        budget.add(record)
    assert (budget.spent() is not None) == ended


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({}, "one target at least"),
        ({"a": {}, "b/c": {}}, "target 'b/c': its name may have"),
        ({"a": {}, "b@c": {}}, "target 'b@c': its name may have"),
        ({"a": {}, "": {}}, "target '': its name may have"),
    ],
)
def test_targets_that_cannot_be_are_refused(targets: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        job_with(targets=targets)
    assert job_with(targets={"b/c": {}}).target_name == "b/c"  # as before there were several


@pytest.mark.parametrize("value", ["jetson", "!jetson", "in(jetson, pi)", "!in(a,b)", "a-b.c_1"])
def test_labels_are_those_that_ray_takes(value: str) -> None:
    from ray._private.label_utils import validate_label_selector

    assert validate_label_selector({"board": value}) is None
    assert Target(labels={"board": value}).elsewhere


@pytest.mark.parametrize("value", ["", "a b", "in()", "in(a", "!", "-a", "a" * 64, "in(a,,b)"])
def test_labels_that_ray_does_not_take_are_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="expected a value, !value, in"):
        Target(labels={"board": value})


@pytest.mark.parametrize(("amount", "right"), [(1.0, True), (0.25, True), (3.0, True), (0.0, False), (1.5, False)])
def test_amounts_of_resources_are_those_that_ray_takes(amount: float, right: bool) -> None:
    with nullcontext() if right else pytest.raises(ValidationError, match="expected a share of 1, or a whole number"):
        assert Target(resources={"probe": amount}).elsewhere


def test_halving_is_refused_with_several_targets() -> None:
    halving = {"search": {"scheduler": "halving"}}
    with pytest.raises(ValidationError, match="halving ranks trials by the latency on one target, of this"):
        job_with(**halving)
    with pytest.raises(ValidationError, match="for others take `none`"):
        job_with(**halving, targets={"far": {"labels": {"board": "jetson"}}})
    assert job_with(**halving, targets={"one": {}}).search.scheduler.name == "halving"


def test_the_line_on_a_trial_has_the_latency_on_every_target(sweep: Sweep, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = SweepReporter(two_target_sweep(sweep.runs, records_on_both()[:3], name="growing"))
    for record in records_on_both()[3:7]:
        reporter.trial_done(record)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("; two: ")[2].partition(", about")[0] for line in lines] == [
        "1.00 ms, on the front of 3",
        "2.80 ms",
        "0.50 ms, on the front of 4",
        "- ms",
    ]
    assert "1.50 ms" in lines[1]
    assert lines[1].index("on the front of 3") < lines[1].index("; two: ")


def test_a_metric_that_one_of_the_targets_cannot_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="target 'cpu' is a CPU"):
        job_with(targets={"gpu": {"device": "cuda"}, "cpu": {}}, constraints={"device_mib_peak": {"max": 100}})


def test_a_recipe_is_refused_only_if_no_target_can_run_it() -> None:
    both = job_with(targets={"cpu": {}, "gpu": {"device": "cuda"}})
    openvino = Recipe.model_validate({"input_size": 160, "runtime": "openvino"})
    tensorrt = Recipe.model_validate({"input_size": 160, "runtime": "tensorrt"})
    assert both.recipe_unsupported_reason(openvino) is None
    assert both.recipe_unsupported_reason(tensorrt) is None
    assert both.target_unsupported_reason(tensorrt, "cpu") == (
        "runtime: 'tensorrt' runs on cuda; target 'cpu' is a cpu"
    )
    cpus = job_with()
    reason = cpus.recipe_unsupported_reason(tensorrt)
    assert reason is not None
    assert "target 'one' is a cpu" in reason
    assert "target 'two' is a cpu" in reason


def test_a_view_of_a_job_has_one_target() -> None:
    job = job_with()
    assert job.further_targets == ("two",)
    two = job.for_target("two")
    assert (two.target_name, two.target.threads, two.further_targets) == ("two", 2, ())
    assert job.target_name == "one"
    assert two.model_copy(update={"targets": job.targets}) == job


def test_a_target_on_another_node_is_evaluated_here_with_the_cores_that_there_are() -> None:
    far = Target(threads=16, labels={"board": "jetson"}, resources={"probe": 1})
    assert far.on_this_machine(2) == Target(threads=2)
    assert far.on_this_machine(32) == Target(threads=16)
    assert Target(threads=16).on_this_machine(2) == Target(threads=16)  # refused where it is checked
    assert str(far) == "cpu, 16 threads, on a node with label board=jetson, resource probe: 1"
    assert len({far, Target(threads=16), far.model_copy()}) == 2
    context = TrialContext(job_with(targets={"far": far.tree()}), Data((), {}, ""), Path("s"), Path("b"))
    home = context.at_home("far").job
    assert (home.target_name, home.target.labels, home.target.resources) == ("far", {}, {})
    plain = TrialContext(job_with(), Data((), {}, ""), Path("s"), Path("b"))
    assert plain.at_home("two") is plain.on("two")


def test_a_changed_record_does_not_lose_its_targets() -> None:
    record = on_both(2, 0.5, 2.0, 2.5)
    assert changed(record, origin="sibling").targets == record.targets
