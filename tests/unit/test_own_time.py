"""The share of a sweep that is none of its trials' stages, against seconds counted one by one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from paretune.storage.trial_events import EventLog

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from own_time import own_time


def leave(sweep: Path, trial: int, *stages: tuple[str, float, float]) -> None:
    """Write the events of stages, each with begin and end."""
    times = sorted(
        [(begin, "begin", name) for name, begin, _ in stages] + [(end, "end", name) for name, _, end in stages]
    )
    for now, kind, name in times:
        EventLog(sweep / "trials" / f"{trial:04d}", clock=lambda now=now: now).add(kind, name)


def test_time_in_which_no_trial_is_in_a_stage_is_own(tmp_path: Path) -> None:
    leave(tmp_path, 0, ("evaluate", 100.0, 110.0), ("measure", 111.0, 120.0))
    leave(tmp_path, 1, ("finetune", 118.0, 130.0), ("measure", 140.0, 150.0))
    found = own_time(tmp_path)
    assert (found.wall, found.staged, found.trials) == (50.0, 39.0, 2)
    assert found.share == pytest.approx(11 / 50)


@pytest.mark.parametrize("seed", range(5))
def test_seconds_counted_one_by_one_agree(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    busy = np.zeros(400, bool)
    for trial in range(6):
        now = int(random.integers(0, 60))
        for name in ("prune", "finetune", "measure"):
            begin, end = now + int(random.integers(0, 9)), now + int(random.integers(9, 50))
            leave(tmp_path, trial, (name, float(begin), float(end)))
            busy[begin:end], now = True, end
    seconds = np.flatnonzero(busy)
    found = own_time(tmp_path)
    assert found.wall == seconds[-1] + 1 - seconds[0]
    assert found.staged == busy.sum()


def test_a_killed_stage_and_an_empty_sweep_count_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trial left"):
        own_time(tmp_path)
    leave(tmp_path, 0, ("measure", 10.0, 20.0))
    EventLog(tmp_path / "trials" / "0001", clock=lambda: 5.0).add("begin", "finetune")
    assert own_time(tmp_path).wall == 10.0
