"""Drift, by series whose slope is known; scipy is the oracle of the estimator."""

from __future__ import annotations

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.profiling.latency.drift import LatencyDrift, drift
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import COLUMNS


def series(*processes, seconds=1.0, gap=20.0):
    """Times of processes one after the other, each evenly spread over so many seconds."""
    starts = [np.linspace(0, seconds, len(took)) + number * gap for number, took in enumerate(processes)]
    which = np.repeat(np.arange(len(processes)), [len(took) for took in processes])
    return (np.concatenate(starts) * 1e9).astype(np.int64), np.concatenate(processes), which


def rising(by, count=120, noise=0.0, seed=0):
    """From 10 ms to ``by`` times as much more, in a line."""
    times = 10 * (1 + by * np.linspace(0, 1, count))
    return times * (1 + noise * np.random.default_rng(seed).standard_t(3, count))


def found(*processes, **how) -> LatencyDrift:
    answer = drift(*series(*processes, **how))
    assert isinstance(answer, LatencyDrift)
    return answer


def test_a_line_is_its_slope():
    """10.0 to 10.6 ms: 6 % of the start, 0.6 / 10.3 of the median; thirds are 2/3 of the way apart."""
    seen = found(rising(0.06))
    assert seen.slope == pytest.approx(0.6 / 10.3, rel=0.01)
    assert seen.thirds == pytest.approx(0.4 / 10.1, rel=0.01)
    assert seen.across is None
    assert seen.note is not None
    assert seen.note.startswith("drifting: times changed by +5.8% within a process")
    assert found(rising(-0.06)).slope == pytest.approx(-0.6 / 9.7, rel=0.01)


def test_the_slope_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    times = rising(0.05, noise=0.03)
    starts, times, which = series(times, seconds=2.5)
    answer = drift(starts, times, which)
    assert isinstance(answer, LatencyDrift)
    by_scipy = stats.theilslopes(times / np.median(times), starts / 1e9).slope * 2.5
    assert answer.slope == pytest.approx(by_scipy, rel=1e-6)
    tau = stats.kendalltau(starts, times)
    assert 2 * stats.norm.sf(abs(answer.score)) == pytest.approx(tau.pvalue, rel=0.2)


def test_a_long_series_is_drawn_together():
    assert found(rising(0.06, 20_000), seconds=30).slope == pytest.approx(0.6 / 10.3, rel=0.02)


def test_spikes_are_no_drift_and_hide_none():
    quiet, busy = rising(0.0, noise=0.001), rising(0.06, noise=0.001)
    for times in (quiet, busy):
        times[100::4] *= 20
    assert found(quiet).note is None
    assert found(busy).slope == pytest.approx(0.058, abs=0.005)


@pytest.mark.parametrize("by", [0.0, 0.015])
def test_little_or_nothing_is_none(by):
    assert found(rising(by, noise=0.001), rising(by, noise=0.001, seed=1)).note is None


@pytest.mark.slow
def test_chance_is_seldom_called_drift():
    """Independent noise of 10 % with heavy tails: fewer than one in fifty."""
    flagged = sum(
        found(*(rising(0.0, 40, noise=0.1, seed=10 * run + n) for n in range(3))).note is not None for run in range(150)
    )
    assert flagged <= 3


def test_processes_that_differ_are_no_drift_within_them():
    flat = [np.full(60, level) for level in (10.0, 10.5, 11.0)]
    assert found(*flat).slope == 0
    assert found(*flat).note is None


def test_five_processes_in_one_order_are():
    levels = [10.0, 10.1, 10.2, 10.3, 10.4]
    seen = found(*(np.full(40, level) for level in levels))
    assert seen.across == pytest.approx(0.04)
    assert seen.note == "drifting: times changed by +4.0% from the first process to the last, each in turn"
    assert found(*(np.full(40, level) for level in (10.0, 10.2, 10.1, 10.3, 10.4))).across is None
    assert found(*(np.full(40, level) for level in levels[:4])).across is None


def test_what_cannot_be_told():
    assert drift(*series(np.ones(29), np.ones(12))) == "29 samples in a process, 30 are needed"
    starts, times, which = series(np.ones(40))
    assert drift(np.zeros_like(starts), times, which) == "all samples have one start time"


def test_a_latency_tells_its_drift():
    starts, times, which = series(rising(0.06), rising(0.06))
    rows = np.zeros((len(times), len(COLUMNS)), np.int64)
    rows[:, COLUMNS.index("start_ns")] = starts
    for name in ("latency_ns", "latency_cpu_ns"):
        rows[:, COLUMNS.index(name)] = times * 1e6
    cold = {"load_ms": 1.0, "first_inference_ms": 1.0}
    latency = Latency(rows, which, Target(), 1.0, {"foreign": 0.0}, steady=True, cold=cold)
    assert [note.partition(":")[0] for note in latency.notes] == ["drifting"]
    assert latency.to_dict()["drift"]["slope"] == pytest.approx(0.058, abs=0.001)
