"""The data of the page from a sweep's folder, and the files that are made of it."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest

from paretune.results import front_data
from paretune.results.front_data import SweepView, data_of, kept_importance, pictures_of
from paretune.results.front_summary import front_of, records_of
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import trial_folder
from paretune.workflows.front_files import NAMES, refresh_front
from tests_support_records import compared, fake_records, finished_sweep

JOB = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "input_size": 160}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    return finished_sweep(tmp_path, JOB)


def data(sweep: Sweep) -> dict[str, Any]:
    records = records_of(sweep)
    return data_of([SweepView(sweep, front_of(sweep, records), records)])


def test_all_files_are_made_of_the_same_trials(sweep: Sweep) -> None:
    refresh_front(sweep)
    folder = sweep.folder / "front"
    assert sorted(file.name for file in folder.iterdir()) == sorted(NAMES)
    trials = json.loads((folder / "trials.json").read_text())
    assert [trial["number"] for trial in trials] == list(range(14))
    assert [int(row["number"]) for row in csv.DictReader(io.StringIO((folder / "trials.csv").read_text()))] == [
        *range(14)
    ]
    assert trials == json.loads(json.dumps(data(sweep)["trials"]))
    front = json.loads((folder / "front.json").read_text())
    assert front["front"]
    assert [row["number"] for row in trials if row["front"]] == sorted(point["trial"] for point in front["front"])
    assert (folder / "front.svg").read_text().startswith("<?xml")
    assert "# Sweep demo" in (folder / "report.md").read_text()


def test_facts_of_the_sweep_are_in_words(sweep: Sweep) -> None:
    about = data(sweep)["about"]
    assert about["dataset"].startswith("shapes (seed 0")
    assert about["objectives"] == "maximize map, minimize latency_ms"
    assert about["constraints"] == "none"
    assert about["input size"] == "160"


def test_a_page_that_ends_updating_is_drawn_after_the_end(sweep: Sweep) -> None:
    (sweep.folder / "finished").unlink()
    assert not data(sweep)["finished"]
    refresh_front(sweep)
    drawn = sweep.folder / "front" / "front.json"
    before = drawn.stat().st_mtime_ns
    refresh_front(sweep)
    assert drawn.stat().st_mtime_ns == before
    sweep.mark_finished()
    later = drawn.stat().st_mtime + 5
    os.utime(sweep.folder / "finished", (later, later))
    refresh_front(sweep)
    assert drawn.stat().st_mtime_ns != before
    assert '"finished":true' in (sweep.folder / "front" / "front.html").read_text()


def test_speed_ups_of_the_comparison_and_why_there_are_none(sweep: Sweep) -> None:
    found = compared(fake_records(), {0: 2.0, 1: 1.0, 8: 0.4})
    sweep.comparison.write_text(json.dumps(found))
    (target,) = data(sweep)["targets"]
    assert target["gains"]["8"]["eager"]["speedup"] == pytest.approx(5.0)
    assert target["decided_by"] == "comparison"
    sweep.comparison.write_text(json.dumps({"reason": "the host was busy", "trials": {}}))
    assert data(sweep)["targets"][0]["gains_unknown"] == "the host was busy"


def test_importance_is_computed_again_only_when_it_pays(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def computed(_: Sweep) -> list[Any]:
        asked.append(1)
        return []

    monkeypatch.setattr(front_data, "importance_of", computed)
    assert kept_importance(sweep, 14) == []
    assert asked == []  # there is no study
    (sweep.folder / "study.db").touch()
    (sweep.folder / "finished").unlink()
    for trials, times in ((10, 1), (10, 1), (14, 1), (15, 2), (22, 2), (23, 3)):
        kept_importance(sweep, trials)
        assert len(asked) == times, trials
    sweep.mark_finished()
    kept_importance(sweep, 24)
    assert len(asked) == 4
    kept_importance(sweep, 24)
    kept_importance(sweep, 10_000)
    assert len(asked) == 4


def test_pictures_are_those_of_the_recommended_trial_the_baselines_and_the_front(sweep: Sweep) -> None:
    records = records_of(sweep)
    front = front_of(sweep, records)
    members = [point["trial"] for point in front["front"]]
    for number in {record.number for record in records} - {1}:  # a trial of an older version kept none
        (folder := trial_folder(sweep.folder, number)).mkdir(parents=True, exist_ok=True)
        (folder / "worst.json").write_text(json.dumps({"confidence": 0.1 * number, "images": []}))
    trial_folder(sweep.folder, members[-1]).joinpath("worst.json").write_text("{torn")
    found = pictures_of(sweep, [front])
    assert list(found)[:2] == [front["best"]["trial"], 0]
    assert set(found) == {0, *members[:-1]}
    assert found[0]["confidence"] == 0
