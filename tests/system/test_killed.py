"""kill -9 and Ctrl-C: nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import time

import optuna
import pytest

from tests_support import runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def records(place):
    return {p.parent.name: p.stat().st_mtime_ns for p in (place.runs / "tiny" / "trials").glob("*/record.json")}


def wait_for_records(place, process, count, seconds=300):
    end = time.monotonic() + seconds
    while len(records(place)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no record came"
        time.sleep(0.1)


def test_a_sweep_that_is_killed_three_times_ends_as_if_it_had_not_been(place):
    process = place.start("sweep", "tiny.yaml", "--trials", "5")
    seen = {}
    for count in (1, 2, 3):
        wait_for_records(place, process, count)
        time.sleep(0.05 * count)  # at different moments after a record
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(1)  # what was running on Ray dies by itself
        for name, written in seen.items():
            assert records(place)[name] == written, f"trial {name} was run again"
        seen = records(place)
        process = place.start("resume", "tiny")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    for name, written in seen.items():
        assert records(place)[name] == written, f"trial {name} was run again"
    assert sorted(records(place)) == [f"{n:04d}" for n in range(5)]
    _, parent, children = runs_of(place)
    assert [int(r.data.tags["paretune.trial"]) for r in children] == list(range(5))
    assert {r.info.status for r in [parent, *children]} == {"FINISHED"}
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{place.runs / 'tiny' / 'study.db'}")
    told = [t for t in study.trials if "paretune.trial" in t.user_attrs]
    assert sorted(t.user_attrs["paretune.trial"] for t in told) == [2, 3, 4]
    assert {t.state for t in told} == {optuna.trial.TrialState.COMPLETE}


def test_ctrl_c_once_or_sigterm_stops_cleanly_and_says_how_to_go_on(place):
    process, before = place.start("sweep", "tiny.yaml", "--trials", "4"), {}
    for number, count in ((signal.SIGINT, 2), (signal.SIGTERM, 3)):
        wait_for_records(place, process, count)
        process.send_signal(number)
        out, err = process.communicate(timeout=90)
        assert process.returncode == 130, out + err
        assert "paretune resume tiny" in err
        assert "Traceback" not in err
        assert "SIGTERM received" not in err  # what Ray's core prints, with its stack
        assert {name: records(place)[name] for name in before} == before
        before = records(place)
        assert len(before) >= count
        process = place.start("resume", "tiny")
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, out + err
    assert {name: records(place)[name] for name in before} == before
    assert len(records(place)) == 4


def test_two_processes_cannot_run_one_sweep(place):
    process = place.start("sweep", "tiny.yaml")
    try:
        end = time.monotonic() + 60
        while not (place.runs / "tiny" / ".lock").exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        second = place.run("resume", "tiny")
        assert second.returncode == 2
        assert "is being run by another process" in second.stderr
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
