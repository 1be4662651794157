"""Guests of the same host that use its memory: seen by how long copies take."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.core.target import Target
from paretune.profiling.latency import measure as measuring
from paretune.profiling.latency import result as latency_module
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.memory_contention import DAY, KEPT, MemoryContention, neighbours, timed_copies
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import COLUMNS
from tests_support_profiling import BUSY, fake_artefact, images, quick


def made(file: Path, figures: list[float], now: Callable[[], float] = time.time) -> MemoryContention:
    """Memory whose copies take these times in ms, in turn; the last one on and on."""
    return MemoryContention(file, lambda: figures.pop(0) if len(figures) > 1 else figures[0], now)


def test_a_figure_is_the_time_of_a_copy() -> None:
    assert 0.001 < timed_copies(1 << 16, 0.05)() < 20  # ms for 512 KiB: between 500 GB/s and 26 MB/s


def test_how_much_slower_is_told_against_what_the_machine_can(tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    usual = made(file, [5.0])
    for _ in range(20):
        usual.look()
    usual.remember()
    found = made(file, [6.0, 7.0, 4.9, 4.9])
    assert found.slowed([found.look(), found.look()]) == pytest.approx(0.2)  # by the faster of both
    assert found.slowed([found.look(), found.look()]) == 0  # faster than usual is not slower
    tomorrow = time.time() + DAY + 1
    later = made(file, [6.0], lambda: tomorrow)
    assert later.slowed([later.look()]) == 0  # what was a day ago is forgotten


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '[["a", "b"]]', '{"a": 1}', "[[1]]"])
def test_a_damaged_memory_is_learnt_again(content: str, tmp_path: Path) -> None:
    file = tmp_path / "looks.json"
    file.write_text(content)
    found = made(file, [5.0])
    found.look()
    found.remember()
    assert [ms for _, ms in json.loads(file.read_text())] == [5.0]


def test_only_the_latest_figures_are_remembered(tmp_path: Path) -> None:
    found = made(tmp_path / "looks.json", [float(number) for number in range(KEPT + 5)])
    for _ in range(KEPT + 5):
        found.look()
    found.remember()
    kept = [ms for _, ms in json.loads((tmp_path / "looks.json").read_text())]
    assert kept == [float(number) for number in range(5, KEPT + 5)]


def test_a_gpu_or_no_patience_needs_no_looking() -> None:
    for target, patience in ((Target(device="cuda"), 30.0), (Target(), 0.0)):
        with neighbours(target, patience) as found:
            assert found.look() is None
            assert found.slowed([None, None]) is None


def told(slowed: tuple[float | None, ...]) -> Latency:
    rows = np.full((60, len(COLUMNS)), 1_000_000, np.int64)
    facts = {"steady": True, "cold": {"load_ms": 5.0, "first_inference_ms": 3.0}}
    return Latency(rows, np.arange(60) % 3, Target(), 100.0, {"foreign": 0.0, "steal": 0.0}, slowed=slowed, **facts)


def test_the_reader_is_told_of_neighbours_and_only_then() -> None:
    noisy = told((0.02, 0.23, 0.15))
    (note,) = (note for note in noisy.notes if note.startswith("neighbours: "))
    assert "up to 23% slower" in note
    assert "2 of 3 times" in note
    assert json.loads(json.dumps(noisy.to_dict()))["memory_slowed"] == [0.02, 0.23, 0.15]
    assert noisy.contended == ()  # samples are ranked as they are
    for quiet in ((0.0, 0.02, 0.04), (None, None, None), ()):
        assert not any(note.startswith("neighbours: ") for note in told(quiet).notes)


class Clock:
    """Time that passes only by looking."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def tick(self) -> None:
        self.now += 1


@pytest.mark.slow
@pytest.mark.alone
def test_beside_neighbours_a_process_samples_on_and_the_calmer_half_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process has three seconds of patience, a second for each look; around the second nobody is."""
    clock = Clock()
    file = tmp_path / "looks.json"
    file.write_text(json.dumps([(time.time(), 5.0)] * 200))
    figures = [9.0, 9.0, 6.0, 9.0, 7.0, 5.0]

    @contextmanager
    def memory_of(target: Target, patience: float) -> Iterator[MemoryContention]:
        assert (target, patience) == (Target(), 6.0)
        yield MemoryContention(file, lambda: (clock.tick(), figures.pop(0) if len(figures) > 1 else figures[0])[1])

    monkeypatch.setattr(measuring, "time", clock)
    monkeypatch.setattr(latency_module, "contention", lambda _: [])
    monkeypatch.setattr(latency_module, "SPREAD", 9.0)
    protocol = replace(quick(), repetitions=2, patience=6.0)
    folder = fake_artefact(tmp_path / "one")
    latency = measure(folder, images(), Target(), protocol, loader=BUSY, memory_of=memory_of)
    assert latency.slowed == pytest.approx((0.2, 0.2, 0.0))
    assert latency.retaken == 2
    assert np.bincount(latency.repetition)[0] > np.bincount(latency.repetition)[1] > 0
    assert any("2 of 3 times" in note for note in latency.notes if note.startswith("neighbours: "))
