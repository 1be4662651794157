"""Several processes at once: what is counted while all of them run, on which cores, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from paretune.errors import UserError
from paretune.profiling.samples import COLUMNS, Rows
from paretune.profiling.tables import throughput_table
from paretune.profiling.throughput import Throughput, cores_of, throughput, together
from paretune.target import Target
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
    one, four = Throughput(1, 1, 50.0, 49.0, 51.0, 20.0), Throughput(4, 1, 150.0, 140.0, 160.0, 26.0, ("unstable",))
    table = throughput_table("mine", [one, four])
    assert [row[3] for row in table.rows] == ["100%", "75%"]
    assert table.rows[1] == ("4", "150.0", "140.0 to 160.0", "75%", "26.000")
    assert table.notes == ("4 streams: unstable",)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="two streams need two cores")
def test_two_streams_of_a_known_cost_do_what_they_can(tmp_path: Path) -> None:
    folder = fake_artefact(tmp_path, sleep=20)  # sleeping is no work: two streams do twice as much as one
    one, two = (throughput(folder, images(), Target(), n, quick(seconds=0.5), loader=BUSY) for n in (1, 2))
    assert 0.7 * 50 <= one.images_per_second <= 50
    assert 1.6 <= two.images_per_second / one.images_per_second <= 2.4
    assert two.low <= two.images_per_second <= two.high
    assert two.latency_ms_p50 >= 20
