"""Work beside a duet is allowed only where its ratio does not shift, by simulated series and handed-in measurements."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from paretune.config.plan import read_plan
from paretune.profiling.latency import sharing
from paretune.profiling.latency.samples import COLUMNS, SampleBatch
from paretune.profiling.latency.sharing import BOUND, RatioShift, measure_shift, shift_of
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.storage.trial_record import write_record
from paretune.system import cpu_cores, device_lock
from paretune.system.cpu_cores import separate_cores
from paretune.system.device_lock import SharedCores, shared_device
from paretune.workflows import core_sharing
from paretune.workflows.core_sharing import LEAST_TRIALS, cores_of, decide_sharing
from tests_support import SMALL_JOB, SMALL_SPACE
from tests_support_records import complete, recipe

ROUNDS, PAIRS = sharing.ROUNDS, sharing.PAIRS


def series(
    random: np.random.Generator, shift: float, *, between: float = 0.003, within: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Return logarithms of a ratio alone and beside work that multiplies it by 1 + shift.

    Args:
        random: source of the noise.
        shift: true one.
        between: standard deviation of the shift from one pair of processes to another.
        within: standard deviation of one phase.
    """
    level = math.log(4.0) + random.normal(0, 0.05, (ROUNDS, 1))
    alone = level + random.normal(0, within, (ROUNDS, PAIRS))
    own = math.log1p(shift) + random.normal(0, between, (ROUNDS, 1))
    return alone, level + own + random.normal(0, within, (ROUNDS, PAIRS))


def share_allowed(shift: float, runs: int = 1500, **noise: float) -> float:
    random = np.random.default_rng(0)
    return sum(shift_of(*series(random, shift, **noise)).within() for _ in range(runs)) / runs


@pytest.mark.parametrize("shift", [BOUND, 1 / (1 + BOUND) - 1])
@pytest.mark.parametrize("noise", [{}, {"between": 0.01}, {"within": 0.03}, {"between": 0.0, "within": 0.02}])
def test_a_shift_at_the_bound_is_allowed_by_mistake_in_one_of_twenty_at_most(
    shift: float, noise: dict[str, float]
) -> None:
    assert share_allowed(shift, **noise) <= 0.05


def test_a_larger_shift_is_never_allowed_and_none_almost_always() -> None:
    assert share_allowed(0.06) == 0.0
    assert share_allowed(-0.06) == 0.0
    assert share_allowed(0.0) >= 0.95
    assert share_allowed(0.005) >= 0.9


def test_a_shift_that_is_not_known_well_is_not_allowed() -> None:
    assert share_allowed(0.0, within=0.15) <= 0.05


@pytest.mark.parametrize("shift", [0.0, 0.02, -0.05])
def test_the_interval_holds_the_true_shift(shift: float) -> None:
    random, held = np.random.default_rng(1), 0
    for _ in range(1500):
        found = shift_of(*series(random, shift))
        held += found.low <= shift <= found.high
    assert held / 1500 >= 0.94


class FakeWork:
    """Work that slows what is measured beside it, and takes CPU time while it runs."""

    def __init__(self, clock: list[float], busy: float = 1.0) -> None:
        self.runs, self._clock, self._busy, self._spent = False, clock, busy, 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        self.runs, began = True, self._clock[0]
        yield
        self.runs, self._spent = False, self._spent + self._busy * (self._clock[0] - began)

    def cpu_seconds(self) -> float:
        return self._spent


class FakeWorker:
    """A process whose artefact takes a fixed time, and more beside work."""

    clock: list[float]
    work: FakeWork
    slowed: dict[str, float]
    drift = 1.0

    def __init__(self, folder: Path, *_: Any, cores: Sequence[int]) -> None:
        assert cores == (1,)
        self.facts: dict[str, Any] = {"load_ms": 1.0, "first_inference_ms": 1.0}
        self.inference_seconds, self.pid, self._name = 0.004, 0, folder.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End nothing."""

    def warm_up(self) -> bool:
        return True

    def sample(self, seconds: float, _at_least: int, **_: Any) -> SampleBatch:
        kind = type(self)
        kind.drift *= 1.002  # both slow down from block to block
        ms = {"eager": 16.0, "onnxruntime": 4.0}[self._name] * kind.drift
        ms *= kind.slowed[self._name] if kind.work.runs else 1.0
        rows = np.zeros((10, len(COLUMNS)), np.int64)
        for name in ("latency_ns", "network_ns", "latency_cpu_ns", "network_cpu_ns"):
            rows[:, COLUMNS.index(name)] = round(ms * 1e6)
        kind.clock[0] += seconds
        return SampleBatch(rows, {"seconds": seconds}, 1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return a function that measures the shift of fake artefacts."""
    monkeypatch.setattr(sharing, "Worker", FakeWorker)

    def measure(slowed: dict[str, float], busy: float = 1.0) -> RatioShift:
        FakeWorker.clock, FakeWorker.slowed, FakeWorker.drift = [0.0], slowed, 1.0
        FakeWorker.work = FakeWork(FakeWorker.clock, busy)
        images = [np.zeros((4, 4, 3), np.uint8)]
        folders = [tmp_path / name for name in ("eager", "onnxruntime")]
        return measure_shift(folders, images, sharing.Target(threads=1), (1,), FakeWorker.work)

    return measure


def test_the_shift_is_that_of_the_ratio(measured: Any) -> None:
    assert measured({"eager": 1.5, "onnxruntime": 1.5}).shift == pytest.approx(0.0, abs=1e-4)  # both alike
    found = measured({"eager": 1.10, "onnxruntime": 1.02})
    assert found.shift == pytest.approx(1.10 / 1.02 - 1, abs=1e-4)
    assert not found.within()


def test_work_that_sleeps_shows_nothing(measured: Any) -> None:
    with pytest.raises(RuntimeError, match="had a core for"):
        measured({"eager": 1.0, "onnxruntime": 1.0}, busy=0.2)


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes a sweep whose job has other fields."""
    (tmp_path / "job.yaml").write_text(SMALL_JOB.replace("trials: 4", f"trials: {LEAST_TRIALS}, concurrent: 2"))
    (tmp_path / "space.yaml").write_text(SMALL_SPACE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(core_sharing, "separate_cores", lambda _: ([1], [0]))
    numbers = itertools.count()
    return lambda **fields: new_sweep(
        read_plan(Path("job.yaml"), {name.replace("__", "."): value for name, value in fields.items()}),
        f"s{next(numbers)}",
    )


def decided(sweep: Sweep, shift: RatioShift | Exception, *, elsewhere: bool = False) -> tuple[int, list[str]]:
    """Return how often the probe ran, and the lines."""
    calls: list[SharedCores] = []
    lines: list[str] = []

    def probe(_: Sweep, cores: SharedCores) -> RatioShift:
        calls.append(cores)
        if isinstance(shift, Exception):
            raise shift
        return shift

    decide_sharing(sweep, lines.append, elsewhere=elsewhere, probe=probe)
    assert all(cores == SharedCores((1,), (0,)) for cores in calls)
    return len(calls), lines


def test_the_decision_is_printed_noted_and_made_once(sweep: Any) -> None:
    one = sweep()
    calls, lines = decided(one, RatioShift(0.004, -0.006, 0.0141))
    assert calls == 1
    assert lines[-1] == (
        "trials train while another one is measured: the ratio of the baselines' latencies shifts by "
        "+0.4 % (-0.6 to +1.4 %), within ±3 %"
    )
    facts = Sweep(one.runs, one.name).facts["sharing"]
    assert (facts["allowed"], facts["shift"], facts["low"], facts["high"], facts["bound"]) == (
        True, 0.004, -0.006, 0.0141, BOUND,
    )  # fmt: skip
    assert decided(Sweep(one.runs, one.name), RuntimeError("a second probe")) == (0, [])
    one.note(sharing={**facts, "machine": "another"})
    assert decided(one, RatioShift(0.05, 0.04, 0.06))[0] == 1
    assert one.facts["sharing"]["allowed"] is False


def test_what_shifts_or_fails_is_not_shared(sweep: Any) -> None:
    _, lines = decided(sweep(), RatioShift(0.02, 0.0, 0.04))
    assert lines[-1].startswith("trials wait while one is measured: the ratio of")
    assert lines[-1].endswith("+2.0 % (+0.0 to +4.0 %), not within ±3 %")
    failed = sweep()
    decided(failed, RuntimeError("the training beside died"))
    assert failed.facts["sharing"]["reason"] == "the probe failed: the training beside died"
    assert failed.facts["sharing"]["allowed"] is False
    assert decided(failed, RatioShift(0.0, -0.01, 0.01))[0] == 1  # a resumed sweep tries again


@pytest.mark.parametrize(
    ("fields", "elsewhere", "word"),
    [
        ({"measuring__beside_training": "never"}, False, "beside_training is never"),
        ({}, True, "other machines"),
        ({"training__workers": 2}, False, "workers of their own"),
    ],
)
def test_nothing_is_probed_where_the_answer_is_known(
    sweep: Any, fields: dict[str, Any], elsewhere: bool, word: str
) -> None:
    one = sweep(**fields)
    calls, lines = decided(one, RatioShift(0.0, 0.0, 0.0), elsewhere=elsewhere)
    assert calls == 0
    assert word in lines[-1]
    assert one.facts["sharing"]["allowed"] is False


def test_nothing_is_probed_for_one_trial_at_a_time_or_a_few(sweep: Any) -> None:
    alone = sweep(search__concurrent=1)
    assert decided(alone, RatioShift(0.0, 0.0, 0.0)) == (0, [])
    few = sweep()
    for number in range(1):
        write_record(few.folder, complete(number, recipe(160), 0.4, 4.0))
    calls, lines = decided(few, RatioShift(0.0, 0.0, 0.0))
    assert (calls, len(lines)) == (0, 1)
    assert "sharing" not in alone.facts
    assert "sharing" not in few.facts


def test_hyper_threads_of_one_core_are_never_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pairs = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    for core, listed in pairs.items():
        (tmp_path / f"cpu{core}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{core}" / "topology" / "thread_siblings_list").write_text(f"{listed}\n")
    monkeypatch.setattr(cpu_cores, "CPUS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert separate_cores(1) == ([3], [0, 2])
    assert "no 2 cores" in str(separate_cores(2))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 3})
    assert "no 1 cores" in str(separate_cores(1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert separate_cores(1) == ([1], [0])


def test_a_trial_divides_the_cores_only_where_that_is_allowed() -> None:
    for facts in (None, {"allowed": False, "reason": "never"}):
        with cores_of(facts), shared_device("cpu"):
            assert device_lock._sharing == []
    with cores_of({"allowed": True, "measuring": [1], "working": [0]}):
        assert device_lock._sharing == [SharedCores((1,), (0,))]
    assert device_lock._sharing == []
