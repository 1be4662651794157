"""A trial's events are read in their order, and a torn line loses itself alone."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from paretune.storage.trial_events import EVENTS, EventLog, read_events
from paretune.workflows.stages import PartialResult, Stages, TrialStopped


def test_events_are_read_in_their_order(tmp_path: Path) -> None:
    assert read_events(tmp_path / "none") == []
    log = EventLog(tmp_path / "trial", clock=itertools.count(1.0).__next__)
    log.add("begin", "prune", key="ab")
    log.add("epoch", "finetune", epoch=1, epochs=3, metrics={"loss": 0.5, "map": float("nan")})
    log.add("stopped", "finetune", reason="too slow")
    begin, epoch, stopped = read_events(tmp_path / "trial")
    assert (begin.kind, begin.stage, begin.key, begin.time) == ("begin", "prune", "ab", 1.0)
    assert (epoch.epoch, epoch.epochs, dict(epoch.metrics)) == (1, 3, {"loss": 0.5})
    assert stopped.reason == "too slow"


@pytest.mark.parametrize("torn", [b'{"kind": "begin", "sta', b"\xff\xfe\n", b"[]\n", b'{"kind": "begin", "odd": 1}\n'])
def test_a_torn_line_loses_itself_alone(tmp_path: Path, torn: bytes) -> None:
    log = EventLog(tmp_path)
    log.add("begin", "prune")
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(torn if torn.endswith(b"\n") else torn + b"\n")
    log.add("end", "prune", seconds=1.5)
    assert [(event.kind, event.seconds) for event in read_events(tmp_path)] == [("begin", None), ("end", 1.5)]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    EventLog(tmp_path / "trial").add("begin", "prune")


def test_a_path_that_is_no_folder_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "trial").write_text("a file")
    EventLog(tmp_path / "trial").add("begin", "prune")
    assert (tmp_path / "trial").read_text() == "a file"


def test_stages_are_timed_and_asked_about(tmp_path: Path) -> None:
    asked: list[PartialResult] = []

    def decide(result: PartialResult) -> str | None:
        asked.append(result)
        return "enough" if result.epoch == 2 else None

    stages = Stages(itertools.count().__next__, EventLog(tmp_path), decide)
    with stages.stage("prune", "ab"):
        pass
    stages.known("structure", {"expected_latency_ms": 2.0})
    stages.decide_after("prune")
    with stages.stage("finetune"):
        stages.epoch(1, 5, {"map": 0.1})
        with pytest.raises(TrialStopped, match="enough"):
            stages.epoch(2, 5, {"map": 0.2})
    assert [(result.stage, result.epoch) for result in asked] == [("prune", None), ("finetune", 1), ("finetune", 2)]
    assert dict(asked[-1].metrics) == {"expected_latency_ms": 2.0, "map": 0.2}
    assert stages.seconds == {"prune": 1, "finetune": 1}
    assert [(entry["stage"], entry["key"], entry["reused"]) for entry in stages.done] == [
        ("prune", "ab", False),
        ("finetune", None, False),
    ]
    kinds = [event.kind for event in read_events(tmp_path)]
    assert kinds == ["begin", "end", "metrics", "begin", "epoch", "epoch", "end"]
