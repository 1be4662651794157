"""Rungs follow from the events and records on disk, of which each look reads only what is new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretune.config.job import Job
from paretune.search.latency_scale import on_one_scale
from paretune.storage import trial_record
from paretune.storage.trial_events import EVENTS, EventLog, EventReader
from paretune.storage.trial_record import STOPPED, Record, read_record, read_records, trial_folder, write_record
from paretune.workflows import rungs as workflow
from paretune.workflows.rungs import Rungs, RungTable, decision, rung_table
from paretune.workflows.stages import PartialResult, TrialPaused
from paretune.workflows.sweep_state import SweepState
from tests_support_records import complete, recipe

JOB = Job.model_validate(
    {
        "dataset": {"shapes": {}},
        "detector": "yolo",
        "input_size": 64,
        "space": "none.yaml",
        "search": {"scheduler": {"halving": {"eta": 2, "shares": (0.25, 0.5)}}},
    }
)


def reach(folder: Path, number: int, quality: float, *, epoch: int = 2, latency: float = 2.0, **more: Any) -> None:
    """Write the events of a trial that reaches a rung, at the second of its number."""
    log = EventLog(trial_folder(folder, number), clock=lambda: float(more.get("time", number)))
    log.add("metrics", "structure", metrics={"expected_latency_ms": latency})
    log.add("epoch", "finetune", epoch=1, epochs=8, metrics={"map": 0.9})  # no rung
    log.add("epoch", "finetune", epoch=epoch, epochs=8, metrics={"map": quality})


def finished(number: int, quality: float, latency: float = 2.0) -> Record:
    return complete(number, recipe(64), quality, latency, origin="sampled")


@pytest.fixture
def state(tmp_path: Path) -> SweepState:
    return SweepState(tmp_path, JOB.search.scheduler)


def test_rungs_are_rebuilt_from_the_events_of_all_trials(tmp_path: Path, state: SweepState) -> None:
    for number, quality in ((2, 0.4), (3, 0.5), (4, 0.1)):
        reach(tmp_path, number, quality)
    write_record(tmp_path, finished(2, 0.6))
    table = rung_table(state, JOB, paused=[4])
    assert table.halving.paused == {4: 0}
    assert table.expected[3] == {"map": pytest.approx(0.7), "latency_ms": 2.0}  # trial 2 gained 0.2 from there
    decide = decision(state, JOB, 4, drawn=True)
    assert decide(PartialResult("finetune", {"loss": 1.0}, 1)) is None
    assert decide(PartialResult("finetune", {"map": 0.9}, 1)) is None  # no rung
    with pytest.raises(TrialPaused, match=r"rung 1 by map 0\.3"):
        decide(PartialResult("finetune", {"map": 0.1}, 2))
    assert decision(state, JOB, 3, drawn=True)(PartialResult("finetune", {"map": 0.5}, 2)) is None
    asked_for = decision(state, JOB, 4, drawn=False)
    assert asked_for(PartialResult("finetune", {"map": 0.1}, 2)) is None


def test_a_promoted_trial_is_not_paused_again_before_its_next_rung(tmp_path: Path, state: SweepState) -> None:
    for number, quality in ((2, 0.1), (3, 0.5), (4, 0.4)):
        reach(tmp_path, number, quality)
    decide = decision(state, JOB, 2, drawn=True)
    with pytest.raises(TrialPaused):
        decide(PartialResult("finetune", {"map": 0.1}, 2))
    assert decide(PartialResult("finetune", {"map": 0.2}, 3)) is None
    reach(tmp_path, 2, 0.3, epoch=4, time=10.0)
    assert decide(PartialResult("finetune", {"map": 0.3}, 4)) is None  # the first at its rung
    assert rung_table(state, JOB).last[2].rung == 1


def test_paused_trials_are_promoted_by_rung_and_stopped_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs = Rungs(tmp_path, JOB)
    assert rungs.promotable([]) is None
    for number, quality in ((2, 0.3), (3, 0.5), (4, 0.1)):
        reach(tmp_path, number, quality)
    assert rungs.promotable([2, 4]) is None  # one of three goes on: trial 3
    reach(tmp_path, 5, 0.2)
    assert rungs.promotable([2, 4, 5]) == 2
    assert rungs.promotable([4, 5]) is None  # trial 2 runs
    write_record(tmp_path, finished(3, 0.6, latency=2.0))
    assert rungs.finalist([4]) is None
    reach(tmp_path, 6, 0.1, latency=0.5)
    assert rungs.finalist([4, 6]) == 6  # the fastest of all
    made: list[RungTable] = []
    monkeypatch.setattr(workflow, "rung_table", lambda *given: made.append(rung_table(*given)) or made[-1])
    proposals = [{"number": number, "recipe": recipe(64), "origin": "sampled"} for number in (4, 5)]
    first, second = rungs.stop(proposals)
    assert len(made) == 1
    assert read_record(tmp_path, 4) == first
    assert first.expected == {"map": pytest.approx(0.2), "latency_ms": 2.0}
    assert second.facts[STOPPED]["reason"] == "not among the best of rung 1 when the search ended"


def test_each_look_reads_what_is_new_and_sees_what_a_new_reader_sees(
    tmp_path: Path, state: SweepState, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    original = trial_record._parse
    monkeypatch.setattr(trial_record, "_parse", lambda file, number: parsed.append(number) or original(file, number))
    assert (state.records(), state.rungs()) == ([], [])
    for number in range(12):
        duet = {f"{part}{end}": 0.5 + number / 10 for part in ("", "network_") for end in ("ratio", "low", "high")}
        duet |= {"reference": 0, "reference_ms": 4.0 + number % 3, "reference_network_ms": 3.0, "calm": True}
        record = finished(number, 0.3 + number / 100)
        write_record(tmp_path, Record(**{**record.__dict__, "facts": {"duet": duet}}))
        reach(tmp_path, number, 0.1 * number)
        assert state.records() == on_one_scale(read_records(tmp_path))
        assert state.rungs() == SweepState(tmp_path, JOB.search.scheduler).rungs()
    assert sorted(parsed) == list(range(12))


def test_only_appended_events_are_read(tmp_path: Path) -> None:
    reader = EventReader(tmp_path)
    assert reader.new() == {}
    log, other = EventLog(tmp_path / "0002"), EventLog(tmp_path / "0010")
    (tmp_path / "notes").mkdir()
    log.add("begin", "prune")
    other.add("begin", "load")
    assert {number: [event.kind for event in events] for number, events in reader.new().items()} == {
        2: ["begin"],
        10: ["begin"],
    }
    assert reader.new() == {}
    with (tmp_path / "0002" / EVENTS).open("ab") as file:
        file.write(b'{"kind": "end", "stage": "prune", ')
        file.flush()
        assert reader.new() == {}
        file.write(b'"time": 5.0}\n')
    (events,) = reader.new().values()
    assert [(event.kind, event.time) for event in events] == [("end", 5.0)]
    (tmp_path / "0010" / EVENTS).unlink()
    assert reader.new() == {}
    other.add("end", "x")
    assert [event.stage for event in reader.new()[10]] == ["x"]  # shorter than before: begun again


def test_an_event_after_a_torn_line_is_read(tmp_path: Path) -> None:
    reader, log = EventReader(tmp_path), EventLog(tmp_path / "0001")
    log.add("begin", "prune")
    with (tmp_path / "0001" / EVENTS).open("ab") as file:
        file.write(b'{"kind": "epo')
    assert [event.kind for event in reader.new()[1]] == ["begin"]
    log.add("begin", "prune")  # in the torn line
    log.add("end", "prune")
    assert [event.kind for event in reader.new()[1]] == ["end"]
