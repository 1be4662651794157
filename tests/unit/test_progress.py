"""The progress of a sweep, kept up record by record, is what all its records together say; no record is read twice."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from paretune.reports.terminal import time_left
from paretune.search.latency_scale import FolderScale, on_one_scale
from paretune.search.pareto_front import FrontRules, Objective, pareto_front
from paretune.search.progress import BusyTime, SweepProgress
from paretune.storage import trial_record
from paretune.storage.trial_record import Record, RecordReader, forget_record, read_records, write_record
from tests_support_records import OBJECTIVES, changed, complete, recipe


def drawn(count: int, seed: int = 0) -> list[Record]:
    """Records of trials measured beside the baselines, some of which failed."""
    dice, records = random.Random(seed), []
    for number in range(count):
        ratio, reference = dice.uniform(0.3, 2.0), min(number, 1) if number else 0
        ratio = ratio if number > 1 else 1.0
        duet: dict[str, Any] = {"reference": 0 if number == 1 else reference, "calm": dice.random() < 0.7}
        for part in ("", "network_"):
            duet |= {f"{part}ratio": ratio, f"{part}low": ratio * 0.98, f"{part}high": ratio * 1.02}
            duet[f"reference_{part}ms"] = dice.uniform(3.0, 6.0)
        record = complete(number, recipe(160), dice.uniform(0.3, 0.6), 4.0)
        metrics = {name: value for name, value in record.metrics.items() if name not in ("latency_ms", "network_ms")}
        failed = number > 1 and dice.random() < 0.2
        if failed:
            records.append(Record.failed(number, record.recipe, {}, "sampled", "RuntimeError: no"))
        else:
            records.append(changed(record, metrics=metrics, facts={"duet": duet}))
    return records


def rules(most_ms: float | None) -> FrontRules:
    def allowed(record: Record) -> bool:
        return most_ms is None or record.metrics.get("latency_ms", 99.0) <= most_ms

    return FrontRules(OBJECTIVES, allowed, () if most_ms is None else ("latency_ms",))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("most_ms", [None, 4.0])
def test_the_front_after_each_record_is_that_of_all(
    seed: int, most_ms: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paretune.search.progress.DRIFT", 0.0)
    records, judge = drawn(60, seed), rules(most_ms)
    progress = SweepProgress(judge, records[:1])
    for count in range(2, len(records) + 1):
        progress.add(records[count - 1])
        scaled = on_one_scale(records[:count])
        allowed = [one for one in scaled if one.state == "complete" and judge.feasible(one)]
        best = pareto_front([one.metrics for one in allowed], OBJECTIVES)
        assert progress.front == {allowed[i].number for i in best}
        assert progress.record(count - 1) == scaled[-1]
    assert (progress.done, progress.failed) == (60, sum(one.state == "failed" for one in records))


def test_a_trial_that_ran_again_replaces_its_record() -> None:
    records = drawn(12)
    progress = SweepProgress(rules(None), records)
    better = changed(records[3], metrics={**records[3].metrics, "map": 0.9}, state="complete")
    progress.add(better)
    assert 3 in progress.front
    assert progress.done == 12
    progress.add(better)
    assert time_left(progress, 12) == ""


def test_busy_time_counts_moments_once() -> None:
    dice = random.Random(1)
    spans = [(start, start + dice.randint(0, 9)) for start in (dice.randint(0, 200) for _ in range(60))]
    busy, covered = BusyTime(), set[int]()
    for start, end in spans:
        busy.add(start, end)
        covered |= set(range(start, end))
        assert busy.seconds == len(covered)


def test_three_objectives_have_the_front_of_the_definition() -> None:
    aims = [Objective("a", "maximize"), Objective("b", "minimize"), Objective("c", "maximize")]
    dice = random.Random(2)
    points = [{name: float(dice.randint(0, 4)) for name in "abc"} for _ in range(80)]
    gains = [tuple(aim.gain(point) for aim in aims) for point in points]

    def beaten(i: int) -> bool:
        return any(
            all(a >= b for a, b in zip(gains[j], gains[i], strict=True)) and (gains[j] != gains[i] or j < i)
            for j in range(len(points))
            if j != i
        )

    assert pareto_front(points, aims) == [i for i in range(len(points)) if not beaten(i)]


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed."""
    files: list[Path] = []
    real = trial_record._parse
    monkeypatch.setattr(trial_record, "_parse", lambda file, number: [files.append(file), real(file, number)][1])
    return files


@pytest.mark.parametrize("count", [50, 500])
def test_a_new_trial_reads_one_record_however_many_there_are(count: int, tmp_path: Path, parsed: list[Path]) -> None:
    *before, last, next_one = drawn(count + 2)
    for record in before:
        write_record(tmp_path, record)
    worker, reader = FolderScale(tmp_path), RecordReader(tmp_path)
    worker.scaled(last)
    assert len(reader.new()) == count
    parsed.clear()
    write_record(tmp_path, last)
    assert [record.number for record in reader.new()] == [count]
    assert reader.new() == []
    scaled = worker.scaled(next_one)
    assert len(read_records(tmp_path)) == count + 1
    assert len(parsed) == 1
    assert scaled == on_one_scale([*before, last, next_one])[-1]


def test_a_record_that_was_forgotten_is_read_again(tmp_path: Path) -> None:
    first, second = drawn(2)
    write_record(tmp_path, first)
    scale = FolderScale(tmp_path)
    assert scale.scaled(second) == on_one_scale([first, second])[1]
    assert read_records(tmp_path) == [first]
    forget_record(tmp_path, 0)
    again = changed(first, started=7.0)
    write_record(tmp_path, again)
    assert read_records(tmp_path) == [again]
    assert scale.scaled(second) == on_one_scale([again, second])[1]
