"""A duet: ratios that hold where latencies do not, with predictors whose cost is known."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.profiling.latency.compare import Comparison
from paretune.profiling.latency.duet import measure_duet
from paretune.profiling.latency.samples import COLUMNS, Rows
from tests_support_profiling import BUSY, fake_artefact, images, quick


def comparison(latency: np.ndarray) -> Comparison:
    rows: Rows = np.zeros((0, len(COLUMNS)), np.int64)
    return Comparison(rows, np.zeros((0, 3), np.int64), latency, latency, "wall")


def test_ratios_of_three_are_consistent() -> None:
    rng = np.random.default_rng(2)
    found = comparison(rng.uniform(1, 2, (4, 8, 3)))
    assert found.ratio(0, 2).ratio == pytest.approx(found.ratio(0, 1).ratio * found.ratio(1, 2).ratio)
    assert found.ratio(1, 0).low == pytest.approx(1 / found.ratio(0, 1).high)


def test_of_two_the_ratio_is_the_median_of_the_blocks_ratios() -> None:
    rng = np.random.default_rng(3)
    latency = rng.uniform(1, 3, (3, 9, 2))
    wanted = np.exp(np.mean([np.median(np.log(one[:, 0] / one[:, 1])) for one in latency]))
    assert comparison(latency).ratio(0, 1).ratio == pytest.approx(wanted, rel=1e-9)


@contextmanager
def others() -> Iterator[None]:
    """Others on the core for some tenths of a second, again and again."""
    import subprocess
    import sys

    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
                ended.wait(0.4)
                busy.kill()
            ended.wait(0.2)

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return fake_artefact(folder / "a", network=2, postprocess=1), fake_artefact(folder / "b", network=5, postprocess=1)


@pytest.mark.slow
@pytest.mark.alone
class TestWithProcesses:
    def test_the_ratio_is_that_of_the_work_also_beside_others(self, pair: tuple[Path, Path]) -> None:
        with others():
            duet = measure_duet(*pair, images(), Target(), quick(repetitions=2, block_samples=3), loader=BUSY)
        assert duet.ratio.ratio == pytest.approx(3 / 6, rel=0.08)
        assert duet.network_ratio.ratio == pytest.approx(2 / 5, rel=0.08)
        told: dict[str, Any] = duet.facts
        assert told["reference_ms"] >= 6 * 0.98
        assert told["rounds"] == 2
        assert duet.metrics()["latency_ms_p50_cpu"] == pytest.approx(3, rel=0.15)
        assert "latency_ms" not in duet.metrics()

    def test_further_rounds_are_run_only_while_there_is_patience(self, pair: tuple[Path, Path]) -> None:
        start = time.monotonic()
        duet = measure_duet(
            *pair, images(), Target(), quick(repetitions=2, spare=50, patience=0, seconds=0.05), loader=BUSY
        )
        assert duet.facts["rounds"] == 2
        assert time.monotonic() - start < 50

    def test_a_reference_is_measured_by_itself(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        duet = measure_duet(pair[0], None, images(), Target(), quick(), loader=BUSY)
        assert (duet.ratio.ratio, duet.ratio.low, duet.ratio.high) == (1, 1, 1)
        assert duet.facts["reference_ms"] >= 3 * 0.98
        assert duet.notes == duet.latency.notes_with(())
        duet.save_samples(tmp_path / "samples.npz")
        with np.load(tmp_path / "samples.npz") as kept:
            assert set(np.unique(kept["artefact"])) == {0}
            assert set(np.unique(kept["round"])) == {0}

    def test_memory_and_cold_figures_are_the_artefacts_own(self, tmp_path: Path) -> None:
        small, large = fake_artefact(tmp_path / "s", network=1), fake_artefact(tmp_path / "l", network=1, mib=200)
        duet = measure_duet(small, large, images(), Target(), quick(seconds=0.05), loader=BUSY)
        assert duet.reference.memory_mib_peak - duet.latency.memory_mib_peak > 150
        assert duet.metrics()["memory_mib_peak"] == duet.latency.memory_mib_peak
        assert {"load_ms", "first_inference_ms"} <= duet.metrics().keys()
