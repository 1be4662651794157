"""A job says how thoroughly its trials, and the front in the end, are measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretune import finalists, trial
from paretune.bench import Bench
from paretune.job import Job
from paretune.profiling import comparison, measuring
from paretune.profiling.comparison import Ratio
from paretune.profiling.samples import Protocol

JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": "64x64",
    "space": "none.yaml",
    "measuring": {"repetitions": 7, "spare": 1, "seconds": 0.25, "patience": 3.0, "rounds": 5},
}


class Compared:
    """What a comparison of two artefacts tells, the second of which is twice as fast."""

    mode, notes = "wall", ("few_images: so few",)

    def ratio(self, index: int, base: int, *, network: bool = False) -> Ratio:
        ratio = 2.0 ** (base - index)
        return Ratio(ratio, ratio, ratio)

    def save_samples(self, file: Path) -> None:
        pass


def test_the_comparison_tells_how_many_images_there_were(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: Compared())
    found = finalists.compare_front(bench, {1: "one", 0: "zero"})
    assert found["images"] == 4
    assert found["notes"] == ["few_images: so few"]
    assert found["trials"]["1"]["eager"]["speedup"] == 2


class AskedError(Exception):
    """Raised in place of measuring."""


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    job = Job.model_validate(JOB)
    return Bench(job, job.dataset.open(tmp_path / "cache"), tmp_path / "sweep", tmp_path / "baseline")


def test_a_trial_is_measured_as_its_job_says(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(folder: Path, images: list[Any], target: Any, protocol: Protocol) -> None:
        asked.append((folder, len(images), target, protocol))
        raise AskedError

    monkeypatch.setattr(measuring, "measure", measure)
    artefact: Any = SimpleNamespace(folder=tmp_path / "artefact")
    with pytest.raises(AskedError):
        trial._measure(bench, 2, artefact)
    protocol = Protocol(repetitions=7, spare=1, seconds=0.25, patience=3.0)
    assert asked == [(artefact.folder, 4, bench.job.target, protocol)]


def test_the_front_is_compared_as_its_job_says(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def compare(folders: list[Path], images: list[Any], target: Any, *, rounds: int) -> None:
        asked.append((folders, rounds))
        raise AskedError

    monkeypatch.setattr(comparison, "compare", compare)
    with pytest.raises(AskedError):
        finalists.compare_front(bench, {1: "one", 0: "zero"})
    assert asked == [([bench.folder / "zero", bench.folder / "one"], 5)]
