"""How well a median is known, by synthetic series whose median is; and what measuring makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.profiling.latency import measure as measuring
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.median_interval import NORMAL, MedianInterval, median_interval, student_quantile
from paretune.profiling.latency.result import Latency, unsettled
from paretune.profiling.latency.samples import COLUMNS, MeasurementProtocol, Rows, SampleBatch
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker import _Runner
from paretune.reports.profile_tables import stage_table
from tests_support_profiling import images

MS = 1_000_000
Series = NDArray[np.float64]


def series(rng: np.random.Generator, processes: int, count: int, between: float, within: float) -> list[Series]:
    """Samples of median 5: processes differ, neighbours are alike (lag-1 correlation 0.5), tails are heavy."""
    noise = rng.standard_t(3, (processes, count)) * within
    for at in range(1, count):
        noise[:, at] = 0.5 * noise[:, at - 1] + 0.87 * noise[:, at]
    return list(5 * np.exp(rng.normal(0, between, (processes, 1)) + noise))


@pytest.mark.parametrize(
    ("processes", "between", "within"), [(3, 0.02, 0.03), (5, 0.02, 0.03), (3, 0.0, 0.03), (3, 0.01, 0.06)]
)
def test_the_interval_holds_the_truth_about_as_often_as_it_claims(
    processes: int, between: float, within: float
) -> None:
    rng, hits, runs = np.random.default_rng(7), 0, 150
    for _ in range(runs):
        found = median_interval(series(rng, processes, 60, between, within))
        assert isinstance(found, MedianInterval)
        hits += found.low <= 5 <= found.high
    assert 0.92 <= hits / runs <= 1


def test_stopping_when_the_interval_is_narrow_keeps_what_it_claims() -> None:
    """Of two measurements one had to take a fourth process, or more."""
    rng, hits, runs, more = np.random.default_rng(3), 0, 150, 0
    for _ in range(runs):
        there, count = series(rng, 6, 60, 0.015, 0.02), 3
        while isinstance(found := median_interval(there[:count]), MedianInterval) and found.half > 0.03 and count < 6:
            count += 1
        assert isinstance(found, MedianInterval)
        hits += found.low <= 5 <= found.high
        more += count > 3
    assert more > runs / 3
    assert 0.91 <= hits / runs <= 1


@pytest.mark.parametrize(("between", "within"), [(0.02, 0.02), (0.0, 0.08)])
def test_it_is_a_bootstrap_of_the_median_of_all_samples(between: float, within: float) -> None:
    """The oracle draws processes, and blocks of each, one by one."""
    rng = np.random.default_rng(11)
    there = series(rng, 4, 49, between, within)
    blocks = [np.split(one, 7) for one in there]
    processes, parts = [], []
    for _ in range(2000):
        processes.append(np.median(np.concatenate([there[i] for i in rng.integers(4, size=4)])))
        drawn = [np.concatenate([one[i] for i in rng.integers(7, size=7)]) for one in blocks]
        parts.append(np.median(np.concatenate(drawn)))
    student = student_quantile(3) * (4 / 3) ** 0.5
    wanted = max(student * np.log(processes).std(), NORMAL * np.log(parts).std())
    found = median_interval(there)
    assert isinstance(found, MedianInterval)
    assert np.log(found.high / found.low) / 2 == pytest.approx(wanted, rel=0.12)
    assert (found.low * found.high) ** 0.5 == pytest.approx(np.median(np.concatenate(there)))
    assert found == median_interval(there)  # seeded


def test_many_samples_are_no_slower_and_no_less_sure() -> None:
    """More than are told apart one by one."""
    there = [np.random.default_rng(seed).normal(5, 0.5, 40_000) for seed in range(3)]
    found = median_interval(there)
    assert isinstance(found, MedianInterval)
    exact = 1.2533 * 0.5 / 5 / 120_000**0.5  # standard error of a normal median, as a share
    assert NORMAL * exact * 0.7 <= found.half <= 4 * student_quantile(2) * exact


def test_what_one_process_cannot_tell_is_unknown() -> None:
    assert "2 are needed" in str(median_interval([np.ones(100)]))
    assert median_interval([np.ones(4), np.ones(4)]) == "8 samples, 11 are needed"
    assert median_interval([np.full(20, 3.0), np.full(20, 3.0)]) == MedianInterval(3.0, 3.0)


def rows_of(times: Series) -> Rows:
    """Inferences that take so many ms, all of it CPU time in the network."""
    rows = np.zeros((len(times), len(COLUMNS)), np.int64)
    for name in ("network_ns", "latency_ns", "network_cpu_ns", "latency_cpu_ns"):
        rows[:, COLUMNS.index(name)] = np.round(times * MS)
    rows[:, COLUMNS.index("start_ns")] = np.cumsum(rows[:, COLUMNS.index("latency_ns")])
    return rows


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Latency]:
    """Measure processes that take these times, one list after the other; none is really started."""

    def run(there: list[Series], **protocol: Any) -> Latency:
        started: list[Any] = []

        class Fake:
            pid = 1

            def __init__(self, *_: Any) -> None:
                self.facts = {"load_ms": 5.0, "first_inference_ms": 3.0, "runtime": "eager", "precision": "fp32"}
                started.append(self)

            def __enter__(self) -> Any:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def warm_up(self) -> bool:
                return True

            def sample(self, *_: Any, **__: Any) -> SampleBatch:
                return SampleBatch(rows_of(there[len(started) - 1]), {"foreign": 0.0, "steal": 0.0, "seconds": 1.0}, 1)

        monkeypatch.setattr(measuring, "Worker", Fake)
        return measure(Path("mine"), images(), Target(), MeasurementProtocol(patience=0, **protocol))

    return run


def spread_out(*shares: float) -> list[Series]:
    """Of each process 60 samples around 5 ms times so much."""
    rng = np.random.default_rng(0)
    return [5 * share * np.exp(rng.normal(0, 0.01, 60)) for share in shares]


def processes_of(latency: Latency) -> int:
    return len(np.unique(latency.repetition))


def test_a_steady_measurement_takes_what_was_asked_for(measured: Callable[..., Latency]) -> None:
    latency = measured(spread_out(1.0, 1.003, 0.998))
    metrics = latency.metrics()
    assert processes_of(latency) == 3
    assert not any(note.startswith("unstable") for note in latency.notes)
    assert 4.85 < metrics["latency_ms_p50_low"] < metrics["latency_ms_p50"] < metrics["latency_ms_p50_high"] < 5.15
    told = f"{metrics['latency_ms_p50_low']:.4g} to {metrics['latency_ms_p50_high']:.4g} ms"
    assert f"95 % interval of the median end to end: {told}" in stage_table("mine", latency).notes


def test_processes_are_added_until_the_median_is_known(measured: Callable[..., Latency]) -> None:
    latency = measured(spread_out(1.0, 1.02, 0.985, 1.0, 1.0, 1.0))
    assert 3 < processes_of(latency) < 6
    assert not any(note.startswith("unstable") for note in latency.notes)


def test_what_wanders_takes_all_spare_processes_and_is_flagged(measured: Callable[..., Latency]) -> None:
    latency = measured(spread_out(1.0, 1.06, 0.97, 1.05, 0.98, 1.04), spare=3)
    assert processes_of(latency) == 6
    (note,) = (note for note in latency.notes if note.startswith("unstable"))
    metrics = latency.metrics()
    limits = f"({metrics['latency_ms_p50_low']:.3g} to {metrics['latency_ms_p50_high']:.3g} ms)"
    assert f"{limits}, ±3% is wanted" in note
    assert "apart" not in note  # none lies a tenth from another
    assert latency.to_dict()["metrics"]["latency_ms_p50_low"] == metrics["latency_ms_p50_low"]


def test_one_process_that_lies_apart_is_flagged_though_the_median_is_known(measured: Callable[..., Latency]) -> None:
    latency = measured(spread_out(*[1.0] * 7, 1.15), repetitions=8, spare=0)
    interval = latency.interval
    assert isinstance(interval, MedianInterval)
    assert interval.half < 0.03
    (note,) = (note for note in latency.notes if note.startswith("unstable"))
    assert "medians of the processes lie 15% apart" in note


def test_a_quick_look_stays_one_process_and_has_no_interval(measured: Callable[..., Latency]) -> None:
    latency = measured(spread_out(1.0, 1.0), repetitions=1)
    assert processes_of(latency) == 1
    assert "2 are needed" in latency.reasons["latency_ms_p50_low"]
    assert "latency_ms_p50_high" not in latency.metrics()
    assert any("median end to end: not known, one process" in note for note in stage_table("mine", latency).notes)


def test_a_gpu_is_held_to_one_percent() -> None:
    there = [rows_of(times) for times in spread_out(1.0, 1.006, 0.996)]
    assert not unsettled(there, Target())
    assert unsettled(there, Target(device="cuda"))


@pytest.mark.parametrize(("seconds", "at_least", "lasts"), [(0.2, 1, (0.2, 30)), (0.0, 10**9, (0.05, 30))])
def test_the_cap_ends_waiting_for_samples_not_the_seconds(
    seconds: float, at_least: int, lasts: tuple[float, float]
) -> None:
    fake = SimpleNamespace(preprocess=lambda image: (image, None), core=lambda _: (), postprocess=lambda *_: None)
    with saved_images(images(1)) as file:
        runner = _Runner(fake, file, [0], 1)
    found = runner.sample(seconds, at_least, cap=0.05, lead_in=0, image=0)
    assert lasts[0] <= found["elsewhere"]["seconds"] <= lasts[1]
