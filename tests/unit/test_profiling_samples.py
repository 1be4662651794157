"""Statistics of samples, by synthetic ones: numpy and scipy are the oracles; no process is started."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.target import Target
from paretune.profiling.latency.compare import Comparison, LatencyRatio, mode_of
from paretune.profiling.latency.median_interval import student_quantile
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import (
    COLUMNS,
    P50_SAMPLES,
    P90_SAMPLES,
    P95_SAMPLES,
    P99_SAMPLES,
    MeasurementProtocol,
    SampleBatch,
    milliseconds,
    steady,
    trusted,
)


def samples(latency_ms, *, cpu_ms=None, switches=0, before=0):
    """Rows of inferences that take so long, a tenth in either outer stage."""
    wall = np.asarray(latency_ms, float)
    rows = np.zeros((len(wall), len(COLUMNS)), np.int64)
    for suffix, total in (("ns", wall), ("cpu_ns", wall if cpu_ms is None else np.broadcast_to(cpu_ms, wall.shape))):
        for stage, share in (("preprocess", 0.1), ("network", 0.8), ("postprocess", 0.1), ("latency", 1.0)):
            rows[:, COLUMNS.index(f"{stage}_{suffix}")] = np.round(total * share * 1e6)
    rows[:, COLUMNS.index("switches")] = switches
    rows[:, COLUMNS.index("switches_before")] = before
    return rows


def latency_of(*repetitions, threads=1, elsewhere=None, **fields):
    return Latency(
        rows=np.concatenate(repetitions),
        repetition=np.repeat(np.arange(len(repetitions)), [len(rows) for rows in repetitions]),
        target=Target(threads=threads),
        memory_mib_peak=100.0,
        elsewhere={"foreign": 0.0, "steal": 0.0} if elsewhere is None else elsewhere,
        **{"steady": True, "cold": {"load_ms": 5.0, "first_inference_ms": 3.0}, **fields},
    )


@given(st.lists(st.floats(0.01, 500), min_size=11, max_size=300), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_percentiles_are_numpys_on_the_pooled_samples(times, parts):
    rows = samples(times)
    latency = latency_of(*[part for part in np.array_split(rows, parts) if len(part)])
    metrics = latency.metrics()
    exact = np.round(np.array(times) * 1e6) / 1e6
    assert metrics["latency_ms_p50"] == pytest.approx(np.percentile(exact, 50))
    if len(times) >= 64:
        assert metrics["latency_ms_p90"] == pytest.approx(np.percentile(exact, 90))
    else:
        assert "latency_ms_p90" not in metrics
        assert latency.reasons["latency_ms_p90"] == f"{len(times)} samples, 64 are needed"
    assert "latency_ms_p99" in latency.reasons
    assert not metrics.keys() & latency.reasons.keys()
    if "latency_ms_p50_low" in latency.reasons:
        assert latency.reasons["latency_ms_p50_low"].startswith("one process")
    else:
        assert metrics["latency_ms_p50_low"] <= metrics["latency_ms_p50"] * (1 + 1e-9)
        assert metrics["latency_ms_p50_high"] >= metrics["latency_ms_p50"] * (1 - 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("percent", "needed"), [(50, P50_SAMPLES), (90, P90_SAMPLES), (95, P95_SAMPLES), (99, P99_SAMPLES)]
)
def test_percentiles_need_as_many_samples_as_mlperf_asks_for(percent, needed):
    """The fewest of which at most one exceeds the true percentile with a chance of 1 % or less."""
    chance = pytest.importorskip("scipy.stats").binom.cdf(1, np.arange(1, 1000), 1 - percent / 100)
    assert np.arange(1, 1000)[chance <= 0.01][0] == needed


@pytest.mark.parametrize(("count", "known"), [(10, set()), (11, {50}), (63, {50}), (64, {50, 90}), (662, {50, 90, 99})])
def test_which_percentiles_are_given(count, known):
    metrics = latency_of(samples(np.ones(count))).metrics()
    assert {p for p in (50, 90, 99) if f"latency_ms_p{p}" in metrics} == known


def test_stages_are_told_apart():
    metrics = latency_of(samples([10.0] * 20)).metrics()
    assert metrics["preprocess_ms_p50"] == pytest.approx(1)
    assert metrics["network_ms_p50"] == pytest.approx(8)
    assert metrics["postprocess_ms_p50"] == pytest.approx(1)


def test_clean_median_needs_thirty_clean_samples():
    times, switches = [2.0] * 30 + [7.0] * 70, [0] * 30 + [1] * 70
    latency = latency_of(samples(times, switches=switches))
    assert latency.metrics()["latency_ms_p50_clean"] == 2.0
    assert latency.metrics()["latency_ms_p50"] == 7.0
    assert latency.metrics()["clean_fraction"] == pytest.approx(0.3)
    latency = latency_of(samples(times[1:], switches=switches[1:]))
    assert latency.reasons["latency_ms_p50_clean"] == "29 undisturbed samples, 30 are needed"


def test_the_clean_median_leaves_out_the_first_after_a_switch_where_there_are_enough_others():
    """Its caches are cold."""
    times, switches, before = [1.6, 1.4, 3.0] * 40, [0, 0, 1] * 40, [1, 0, 0] * 40
    latency = latency_of(samples(times, switches=switches, before=before))
    assert latency.metrics()["latency_ms_p50_clean"] == 1.4
    assert latency.metrics()["clean_fraction"] == pytest.approx(2 / 3)
    few = latency_of(samples([4.3, 8.0] * 40, switches=[0, 1] * 40, before=[1, 0] * 40))
    assert few.metrics()["latency_ms_p50_clean"] == 4.3


def test_of_few_undisturbed_ones_there_is_no_clean_median():
    """They are the shortest: the others did not fit between two turns of somebody else."""
    times, switches = [3.0] * 40 + [8.0] * 400, [0] * 40 + [1] * 400
    latency = latency_of(samples(times, cpu_ms=4.0, switches=switches), elsewhere={"foreign": 0.5})
    assert latency.reasons["latency_ms_p50_clean"] == "9% of the samples are undisturbed, the shortest; 10% are needed"
    assert latency.mode == "cpu"


def test_cpu_time_is_given_for_one_thread_only():
    rows = samples([9.0] * 20, cpu_ms=4.0)
    assert latency_of(rows).metrics()["latency_ms_p50_cpu"] == 4.0
    assert "latency_ms_p50_cpu" in latency_of(rows, threads=2).reasons


@pytest.mark.parametrize(
    ("elsewhere", "flagged"),
    [
        ({"foreign": 0.04, "steal": 0.01}, False),
        ({"foreign": 0.3, "steal": 0.0}, True),
        ({"foreign": 0.0, "steal": 0.1}, True),
        ({"foreign": 0.0, "steal": 0.0, "throttled": 0.2}, True),
        ({"foreign": 0.0, "steal": 0.0, "waiting": 0.9}, False),  # it may be about other cores
    ],
)
def test_contention_is_flagged_with_its_reason(elsewhere, flagged):
    latency = latency_of(samples([2.0] * 50), elsewhere=elsewhere)
    assert bool(latency.contended) is flagged
    assert any(note.startswith("contended: ") for note in latency.notes) is flagged


def test_contention_shows_in_wall_time_against_cpu_time_too():
    disturbed = samples([3.0] * 50, cpu_ms=2.0, switches=[1] * 40 + [0] * 10)
    assert "1.50 times CPU time" in latency_of(disturbed).notes[0]
    waiting_of_its_own = samples([3.0] * 50, cpu_ms=2.0, switches=0)
    assert latency_of(waiting_of_its_own).contended == ()


def test_what_the_kernel_does_not_tell_is_unknown_not_absent():
    assert any(note.startswith("contention unknown") for note in latency_of(samples([1.0] * 20), elsewhere={}).notes)


def test_flags_of_an_unsteady_measurement():
    apart = latency_of(samples([2.0] * 20), samples([2.5] * 20), steady=False, facts={"nice": 15})
    flags = {note.partition(":")[0] for note in apart.notes}
    assert flags == {"unstable", "no_steady_state", "nice"}
    (note,) = latency_of(samples([2.0] * 20), facts={"precision": "fp32", "file": "int8"}).notes
    assert note == "precision: the file is made for int8, and the runtime computes it in fp32"
    assert latency_of(samples([2.0] * 20), samples([2.001] * 20)).notes == ()


def test_ranking_uses_what_holds_on_a_busy_machine():
    busy = {"foreign": 0.9, "steal": 0.0}
    quiet = latency_of(samples([5.0] * 50))
    short = latency_of(samples([5.0] * 50, cpu_ms=4.0, switches=[0] * 40 + [1] * 10), elsewhere=busy)
    long = latency_of(samples([200.0] * 50, cpu_ms=90.0, switches=30), elsewhere=busy)
    threads = latency_of(samples([200.0] * 50, cpu_ms=90.0, switches=30), threads=2, elsewhere=busy)
    assert [latency.mode for latency in (quiet, short, long, threads)] == ["wall", "clean", "cpu", "wall"]


def test_shortness_is_judged_by_cpu_time_where_wall_time_is_stretched():
    rows = samples([60.0] * 50, cpu_ms=4.0, switches=[0] * 20 + [3] * 30)
    assert trusted([rows], threads=1, device="cpu") == "clean"
    assert trusted([rows], threads=2, device="cpu") == "wall"
    assert trusted([rows], threads=1, device="cuda") == "wall"


def test_a_plateau_is_two_windows_that_agree():
    same = MeasurementProtocol()
    assert steady(samples([10.0] * 9), samples([10.2] * 9), same, 1, "cpu")
    assert not steady(samples([10.0] * 9), samples([9.5] * 9), same, 1, "cpu")
    stretched = samples([30.0] * 9, cpu_ms=10.1, switches=2)
    assert steady(samples([10.0] * 9), stretched, same, 1, "cpu")  # others came in, the process did not change
    assert not steady(samples([10.0] * 9), stretched, same, 2, "cpu")
    waiting = [samples([wall] * 9, cpu_ms=0.1) for wall in (10.0, 11.0)]
    assert not steady(*waiting, same, 1, "cpu")  # of one that mostly waits, CPU time tells nothing
    robbed = [samples([wall] * 9, cpu_ms=cpu, switches=[0] * 2 + [1] * 7) for wall, cpu in ((30, 3), (30, 2.5))]
    assert not steady(*robbed, same, 1, "cpu")  # and the wall time of a busy machine nothing either


def test_everything_survives_on_disk(tmp_path):
    latency = latency_of(samples([1.0, 2.0, 3.0], switches=[0, 1, 0]), samples([4.0]))
    latency.save_samples(tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as saved:
        assert saved["latency_ns"].tolist() == [1_000_000, 2_000_000, 3_000_000, 4_000_000]
        assert saved["clean"].tolist() == [True, False, True, True]
        assert saved["repetition"].tolist() == [0, 0, 0, 1]
        assert set(saved.files) == {*COLUMNS, "clean", "repetition"}


def comparison(latency, **fields):
    latency = np.asarray(latency, float)
    empty = np.zeros((0, len(COLUMNS)), np.int64)
    return Comparison(empty, np.zeros((0, 3), np.int64), latency, latency / 2, "wall", **fields)


def test_ratio_is_paired_by_block():
    """Drift that hits all artefacts alike cancels, however large."""
    drift = np.exp(np.random.default_rng(0).normal(0, 1, (4, 6, 1)))
    found = comparison(drift * np.array([2.0, 4.0, 2.0]))
    assert found.ratio(1).ratio == pytest.approx(2)
    assert found.ratio(0, 1).ratio == pytest.approx(0.5)
    assert found.ratio(1, network=True).ratio == pytest.approx(2)
    assert [ratio.verdict for ratio in found.ratios()] == ["tied", "slower", "tied"]


def test_disturbed_blocks_do_not_count():
    latency = np.tile([1.0, 3.0], (3, 4, 1))
    latency[:, 0, 1] = np.nan
    latency[1, 1, 0] = np.nan
    assert comparison(latency).ratio(1).ratio == pytest.approx(3)


@pytest.mark.parametrize(("undisturbed", "mode"), [(40, "clean"), (8, "clean"), (5, "cpu"), (2, "cpu")])
def test_compared_blocks_whose_survivors_are_the_shortest_are_told_by_cpu_time(undisturbed, mode):
    """5 of 60 are enough for a block's median, but are less than a tenth of what was run."""
    block = SampleBatch(samples([2.0] * 60, switches=[0] * undisturbed + [1] * (60 - undisturbed)), {"seconds": 1.0}, 0)
    assert mode_of([[[block, block]] * 4] * 2, Target()) == mode


@pytest.mark.parametrize("rounds", [3, 5])
def test_the_interval_holds_the_truth_as_often_as_it_claims(rounds):
    """Processes differ by 2 %, blocks of one process by a heavy-tailed 2 %, and neighbours are alike."""
    rng = np.random.default_rng(rounds)
    hits, runs = 0, 600
    for _ in range(runs):
        noise = rng.standard_t(3, (rounds, 8)) * 0.02
        for block in range(1, 8):
            noise[:, block] = 0.5 * noise[:, block - 1] + 0.87 * noise[:, block]
        logs = np.log(1.3) + rng.normal(0, 0.02, (rounds, 1)) + noise
        ratio = comparison(np.stack([np.ones_like(logs), np.exp(logs)], axis=2)).ratio(1)
        hits += ratio.low <= 1.3 <= ratio.high
    assert 0.92 <= hits / runs <= 0.98


def test_quantiles_are_students():
    printed = {1: 12.706, 2: 4.303, 4: 2.776, 10: 2.228, 30: 2.042}  # of any table of the t distribution
    assert {freedom: student_quantile(freedom) for freedom in printed} == pytest.approx(printed, abs=1e-3)


@pytest.mark.parametrize(
    ("ratio", "low", "high", "verdict"),
    [
        (0.8, 0.7, 0.9, "faster"),
        (1.2, 1.1, 1.3, "slower"),
        (0.8, 0.6, 1.05, "tied"),
        (0.98, 0.975, 0.985, "tied"),
        (1.02, 1.01, 1.03, "tied"),
        (1.0305, 1.02, 1.041, "slower"),
    ],
)
def test_verdict_needs_certainty_and_size_whichever_is_the_baseline(ratio, low, high, verdict):
    assert LatencyRatio(ratio, low, high).verdict == verdict
    other_way = {"faster": "slower", "slower": "faster", "tied": "tied"}[verdict]
    assert LatencyRatio(1 / ratio, 1 / high, 1 / low).verdict == other_way


def test_stage_times_of_a_mode():
    rows = samples([10.0, 20.0], cpu_ms=5.0, switches=[0, 1])
    assert milliseconds(rows, "network", "wall").tolist() == [8.0, 16.0]
    assert milliseconds(rows, "network", "clean").tolist() == [8.0]
    assert milliseconds(rows, "network", "cpu").tolist() == [4.0, 4.0]
