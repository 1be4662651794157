"""kill -9 and Ctrl-C: nothing is lost, nothing is done twice."""

from __future__ import annotations

import shlex
import signal
import sys
import time

import optuna
import pytest

from tests_support import runs_of
from tests_support_documented import printed, words

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


def records(place):
    return {p.parent.name: p.stat().st_mtime_ns for p in (place.runs / "tiny" / "trials").glob("*/record.json")}


def wait_for_another_record(place, process, seconds=300):
    """One may have come while the sweep before was stopping: count from what is there now."""
    end, wanted = time.monotonic() + seconds, len(records(place)) + 1
    while len(records(place)) < wanted:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "no record came"
        time.sleep(0.1)


def unchanged(place, seen):
    """Assert that no trial was run again; returns the records there are now."""
    now = records(place)
    for name, written in seen.items():
        assert now[name] == written, f"trial {name} was run again"
    return now


def refuse_another(place):
    end = time.monotonic() + 300
    while not (place.runs / "tiny" / ".lock").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    second = place.run("resume", "tiny")
    assert second.returncode == 2
    assert "is being run by another process" in second.stderr


def stop(process, number):
    """Send a signal; unless it kills, the sweep ends cleanly. Return how to go on, as it says itself if it can."""
    process.send_signal(number)
    out, err = process.communicate(timeout=300)
    if number == signal.SIGKILL:
        time.sleep(1)  # what was running on Ray dies by itself
        return shlex.join([sys.executable, "-m", "paretune", "resume", "tiny"])
    assert process.returncode == 130, out + err
    (again,) = printed(err)
    assert words(again) == ["resume", "tiny"]
    assert "Traceback" not in err
    assert "SIGTERM received" not in err  # what Ray's core prints, with its stack
    return again


def test_a_sweep_that_is_killed_and_stopped_ends_as_if_it_had_not_been(place):
    """Killed, stopped by Ctrl-C and by SIGTERM; meanwhile no second process may run it.

    Two records come at most for each signal that stops it, the second meanwhile: six trials are enough for all three.
    """
    process, seen = place.start("sweep", "tiny.yaml", "--trials", "6"), {}
    try:
        refuse_another(place)
        for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
            wait_for_another_record(place, process)
            if number == signal.SIGKILL:
                time.sleep(0.05)  # the record is being told to the study and to the log
            again = stop(process, number)
            seen = unchanged(place, seen)
            process = place.typed(again)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()  # where something was not as it should be
        process.wait()
    assert process.returncode == 0, out + err
    unchanged(place, seen)
    assert sorted(records(place)) == [f"{n:04d}" for n in range(6)]
    _, parent, children = runs_of(place)
    assert [int(r.data.tags["paretune.trial"]) for r in children] == list(range(6))
    assert {r.info.status for r in [parent, *children]} == {"FINISHED"}
    study = optuna.load_study(study_name="tiny", storage=f"sqlite:///{place.runs / 'tiny' / 'study.db'}")
    told = [t for t in study.trials if "paretune.trial" in t.user_attrs]
    assert sorted(t.user_attrs["paretune.trial"] for t in told) == [2, 3, 4, 5]
    assert {t.state for t in told} == {optuna.trial.TrialState.COMPLETE}
