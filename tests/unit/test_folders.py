"""A sweep that may try more than it was made for, or other numbers at once; what its constraints allow."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from paretune.config.job import Job
from paretune.results import sweep_folder as folders
from paretune.results.sweep_changes import change_search
from paretune.results.sweep_folder import MetricBounds, Sweep, find_sweep
from paretune.storage.trial_record import forget_record, read_record, read_records, write_record
from tests_support_records import finished_sweep

JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": 160,
    "space": "space.yaml",
    "search": {"trials": 14, "seed": 3},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A finished sweep of fourteen trials, whose space was used up."""
    made = finished_sweep(tmp_path, JOB)
    made.mark_exhausted()
    return made


def test_a_finished_sweep_goes_on_when_it_may_try_more(sweep: Sweep) -> None:
    more = change_search(sweep, trials=20)
    assert not more.finished
    assert not more.exhausted
    before, after = sweep.facts, json.loads((sweep.folder / "sweep.json").read_text())
    assert after["job"].pop("search") == {**before["job"]["search"], "trials": 20}
    assert more.job.search.trials == find_sweep(sweep.runs, "demo").job.search.trials == 20
    before["job"].pop("search")
    assert after == before  # all else stays, the time of its making by which the log finds it too


def test_as_many_as_before_change_nothing(sweep: Sweep) -> None:
    text = (sweep.folder / "sweep.json").read_text()
    same = change_search(sweep, trials=14)
    assert same.finished
    assert same.exhausted
    assert json.loads((sweep.folder / "sweep.json").read_text()) == json.loads(text)


def test_more_at_once_leaves_the_budget_and_what_is_done(sweep: Sweep) -> None:
    more = change_search(sweep, concurrent=4)
    assert (more.job.search.concurrent, more.job.search.trials) == (4, 14)
    assert more.finished
    assert more.exhausted


CONSTRAINTS = {
    "map": {"max_drop": 0.02},
    "precision": {"min": 0.8},
    "latency_ms_p50": {"max": 3.0},
    "map_small": {"max_drop": 0.1},  # of which no trial here knows anything
}


@pytest.fixture
def bound(sweep: Sweep) -> Sweep:
    """The same with constraints."""
    facts = json.loads((sweep.folder / "sweep.json").read_text())
    job = Job.model_validate({**JOB, "constraints": CONSTRAINTS}).tree()
    (sweep.folder / "sweep.json").write_text(json.dumps({**facts, "job": job}))
    return Sweep(sweep.runs, "demo")


def test_every_kind_of_constraint_is_broken_by_as_much_as_a_record_is_beyond_it(bound: Sweep) -> None:
    records = {record.number: record for record in read_records(bound.folder)}
    base = records[0].metrics["map"]
    for record in records.values():
        found = bound.violations(record)
        assert found.keys() == CONSTRAINTS.keys()
        assert found["map_small"] == math.inf  # an unknown value keeps nothing
        if record.state == "complete":
            assert found["map"] == pytest.approx(base - 0.02 - record.metrics["map"])
            assert found["precision"] == pytest.approx(0.8 - record.metrics["precision"])
            assert found["latency_ms_p50"] == pytest.approx(record.metrics["latency_ms_p50"] - 3)
    assert bound.violations(records[2])["latency_ms_p50"] > 0 > bound.violations(records[5])["latency_ms_p50"]
    assert bound.bounds == {
        "map": MetricBounds(least=pytest.approx(base - 0.02)),
        "precision": MetricBounds(least=0.8),
        "latency_ms_p50": MetricBounds(most=3.0),
        "map_small": MetricBounds(),
    }
    assert bound.floors == {"map": pytest.approx(base - 0.02), "precision": 0.8}


def test_the_baseline_is_read_once_however_many_records_are_judged(
    bound: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, reads = read_records(bound.folder), list[int]()
    before = folders.read_record
    monkeypatch.setattr(folders, "read_record", lambda place, number: reads.append(number) or before(place, number))
    for _ in range(20):
        for record in records:
            bound.feasible(record)
        assert bound.floors
    assert reads == [0]


def test_a_baseline_that_is_run_again_is_read_again(bound: Sweep) -> None:
    (record,) = (one for one in read_records(bound.folder) if one.number == 1)
    before = bound.violations(record)["map"]
    eager = read_record(bound.folder, 0)
    forget_record(bound.folder, 0)
    assert bound.violations(record)["map"] == math.inf
    assert bound.bounds["map"] == MetricBounds()
    better = {**eager.metrics, "map": eager.metrics["map"] + 0.1}
    write_record(bound.folder, dataclasses.replace(eager, metrics=better))
    assert bound.violations(record)["map"] == pytest.approx(before + 0.1)
