"""Several processes at once: what is counted while all of them run, on which cores, and what is refused."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import InputSize, Thresholds
from paretune.profiling.latency import throughput as module
from paretune.profiling.latency.samples import COLUMNS, Rows, SampleBatch
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.throughput import Throughput, check_batch, cores_of, throughput, together
from paretune.profiling.latency.worker import _Runner
from paretune.reports.profile_tables import throughput_table
from paretune.storage.artefact import Artefact
from paretune.system import cpu_cores as cores
from tests_support_profiling import BUSY, fake_artefact, images, quick

MS = 1_000_000


def rows(start: int, each: int, count: int) -> Rows:
    """Inferences of so many ms, one after the other, from this ms on."""
    found = np.zeros((count, len(COLUMNS)), np.int64)
    found[:, COLUMNS.index("start_ns")] = (start + each * np.arange(count)) * MS
    found[:, COLUMNS.index("latency_ns")] = each * MS
    return found


def test_only_what_runs_while_all_run_is_counted() -> None:
    assert together([rows(0, 10, 100)]) == pytest.approx(100)
    # from 500 to 1000 ms both run: the first does 50 inferences of 10 ms, the second 25 of 20
    assert together([rows(0, 10, 100), rows(500, 20, 100)]) == pytest.approx(150)
    # from 5 to 100 ms: of the first's inferences the half of one, and nine
    assert together([rows(0, 10, 10), rows(5, 95, 1)]) == pytest.approx((9.5 + 1) / 0.095)


def test_streams_that_did_not_run_at_once_are_no_throughput() -> None:
    with pytest.raises(RuntimeError, match="did not run at the same time"):
        together([rows(0, 10, 10), rows(100, 10, 10)])


def test_every_stream_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
    shared = cores_of(Target(threads=2), 2)
    assert [len(cores) for cores in shared] == [2, 2]
    assert len({core for cores in shared for core in cores}) == 4
    with pytest.raises(UserError, match=r"3 streams, each of 2 threads on cores of their own, .* 5: at most 2"):
        cores_of(Target(threads=2), 3)


def test_the_table_says_what_is_left_of_so_many_times_one_stream() -> None:
    one = Throughput(1, 1, 1, 50.0, 49.0, 51.0, 20.0)
    four = Throughput(4, 2, 1, 150.0, 140.0, 160.0, 26.0, ("unstable",))
    table = throughput_table("mine", [one, four])
    assert [row[4] for row in table.rows] == ["100%", "75%"]
    assert table.rows[1] == ("4", "2", "150.0", "140.0 to 160.0", "75%", "26.000")
    assert table.notes == ("4 streams, batch 2: unstable",)


@pytest.mark.parametrize("others", [0, 30])
def test_streams_on_one_cores_hyper_threads_are_not_others_to_each_other(
    others: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cores of two threads each, a stream on three of the four; others work on the fourth, or nobody does."""
    work = dict.fromkeys(range(4), 0.0)
    for core in work:
        topology = tmp_path / f"cpu{core}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{core % 2},{core % 2 + 2}\n")

    def passes(seconds: float, by: dict[int, float]) -> None:
        for core in work:
            work[core] += seconds * by[core]
        ticks = {core: round(done * os.sysconf("SC_CLK_TCK")) for core, done in work.items()}
        lines = [f"cpu{core} {done} 0 0 0 0 0 0 0 0 0" for core, done in ticks.items()]
        (tmp_path / "stat").write_text("\n".join(lines))

    class Fake:
        def __init__(self, *given: Any) -> None:
            _, _, _, _, _, self.own, _, self.beside = given

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def warm_up(self) -> bool:
            return True

        def sample(self, *_: Any) -> SampleBatch:
            """Ten seconds in which every stream keeps its core busy."""
            with turn:
                looked_at = cores.watched(self.own, self.beside)
                passes(0, idle)
                before = cores.reading(looked_at, 0.0)
                passes(10, {core: 1.0 if core in used else others / 100 for core in work})
                spent = cores.passed(before, cores.reading(looked_at, 10.0))
            return SampleBatch(rows(0, 10, 10), {"foreign": spent["foreign"], "seconds": 10.0}, 1)

    turn, idle, used = threading.Lock(), dict.fromkeys(work, 0.0), {1, 2, 3}
    monkeypatch.setattr(cores, "CPUS", tmp_path)
    monkeypatch.setattr(cores, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(module, "Worker", Fake)
    found = throughput(Path("mine"), images(), Target(), 3, quick())
    # one of the three has the fourth thread as its neighbour
    assert found.notes == (("contended: others used 10% of a core on the cores measured on",) if others else ())


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two streams need two cores")
def test_two_streams_of_a_known_cost_do_what_they_can(tmp_path: Path) -> None:
    """By Little's law, of the same seconds: what is under way at once is images a second times seconds an image."""
    folder = fake_artefact(tmp_path, sleep=20)  # sleeping is no work: two streams do twice as much as one
    for streams in (1, 2):
        found = throughput(folder, images(), Target(), streams, quick(seconds=0.5), loader=BUSY)
        assert 0.6 * streams < found.images_per_second * found.latency_ms_p50 / 1000 < 1.2 * streams
        assert found.images_per_second <= 50 * streams
        assert found.low <= found.images_per_second <= found.high
        assert found.latency_ms_p50 >= 20


def test_exported_files_have_no_batches() -> None:
    size = InputSize(64, 64)
    artefact = Artefact(Path("mine"), "onnx", {"yolo": {}}, {"onnxruntime": {}}, {}, ("cat",), size, Thresholds())
    check_batch(artefact, 1)
    with pytest.raises(UserError, match=r"--batch 8: mine runs on onnxruntime, .* one image; .* eager or comp"):
        check_batch(artefact, 8)
    check_batch(replace(artefact, format="torch", runtime={"compiled": {}}), 8)


@pytest.mark.slow
@pytest.mark.alone
def test_a_batch_counts_its_images_and_costs_the_network_once(tmp_path: Path) -> None:
    folder = fake_artefact(tmp_path, sleep=20)
    four = throughput(folder, images(), Target(), 1, quick(seconds=0.5), batch=4, loader=BUSY)
    assert (four.streams, four.batch) == (1, 4)
    assert 0.6 * 4 < four.images_per_second * four.latency_ms_p50 / 1000 < 1.2 * 4  # four are under way at once
    assert 20 <= four.latency_ms_p50 < 4 * 20  # the network sleeps once for all four


def test_what_is_found_in_a_batch_goes_to_the_image_it_belongs_to() -> None:
    seen: list[tuple[float, str]] = []

    class Fake:
        def preprocess(self, image: Any) -> tuple[Any, str]:
            return np.full((1, 3, 2, 2), float(image[0, 0, 0]), np.float32), f"of {image[0, 0, 0]}"

        def core(self, batch: Any) -> tuple[Any, ...]:
            return (batch[:, :1], 10 * batch[:, 1:])

        def postprocess(self, raw: tuple[Any, ...], placement: str) -> None:
            assert [part.shape for part in raw] == [(1, 1, 2, 2), (1, 2, 2, 2)]
            seen.append((float(raw[1].mean()), placement))

    with saved_images([np.full((4, 4, 3), value, np.uint8) for value in range(3)]) as file:
        runner = _Runner(Fake(), file, [0], 2)
    runner.run()
    runner.run()
    assert seen == [(0, "of 0"), (10, "of 1"), (20, "of 2"), (0, "of 0")]
    assert [row[1] for row in runner.rows] == [0, 2]
