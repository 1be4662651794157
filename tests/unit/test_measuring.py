"""A job says how thoroughly its trials, and the front in the end, are measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from paretune.config.job import Job
from paretune.profiling.latency import compare as comparison
from paretune.profiling.latency.compare import LatencyRatio
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.workflows import compare_front as finalists
from paretune.workflows import trial_stages
from paretune.workflows.trial_context import WARMUP, TrialContext
from tests_support_records import fake_records, write_sweep

TWO = finalists.FrontComparison({1: "one", 0: "zero"}, reference=1, seen=[0, 1])
JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": "64x64",
    "space": "none.yaml",
    "measuring": {
        "repetitions": 7,
        "max_extra_repetitions": 1,
        "seconds": 0.25,
        "contention_wait_seconds": 3.0,
        "rounds": 5,
    },
}


class Compared:
    """What a comparison of two artefacts tells, the second of which is twice as fast."""

    mode, notes = "wall", ("few_images: so few",)
    latency = network = np.array([[[4.0, 2.0]]])

    def ratio(self, index: int, base: int = 1, *, network: bool = False) -> LatencyRatio:
        ratio = 2.0 ** (base - index)
        return LatencyRatio(ratio, ratio, ratio)

    def save_samples(self, file: Path) -> None:
        pass


def test_the_comparison_tells_how_many_images_there_were(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: Compared())
    found = finalists.compare_front(context, TWO)
    assert found["images"] == 4
    assert (found["reference"], found["reference_ms"]) == (1, 2.0)
    assert found["latencies"]["0"]["ratio"] == 2
    assert found["verdicts"] == {"0": {"1": "slower"}, "1": {"0": "faster"}}
    assert (found["test"], found["no_test"]) == (None, "the data has no split test")
    assert found["notes"] == ["few_images: so few"]
    assert found["trials"]["1"]["eager"]["speedup"] == 2


def test_an_evaluation_on_test_that_fails_leaves_what_was_measured(
    context: TrialContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "compare", lambda *_, **__: Compared())
    tested = replace(
        context, data=replace(context.data, splits={**context.data.splits, "test": context.data.splits["val"]})
    )
    found = finalists.compare_front(tested, TWO)  # there is no artefact in either folder
    assert found["trials"]["1"]["eager"]["speedup"] == 2
    assert found["test"] is None
    assert found["no_test"].startswith("trial 0 could not be evaluated: ")


class AskedError(Exception):
    """Raised in place of measuring."""


@pytest.fixture
def context(tmp_path: Path) -> TrialContext:
    job = Job.model_validate(JOB)
    return TrialContext(job, job.dataset.open(tmp_path / "cache"), tmp_path / "sweep", tmp_path / "baseline")


def test_a_trial_is_measured_as_its_job_says(context: TrialContext, tmp_path: Path) -> None:
    asked: list[Any] = []

    def measure(
        folder: Path, beside: Path | None, images: list[Any], target: Any, protocol: MeasurementProtocol, **_: Any
    ) -> None:
        asked.append((folder, beside, len(images), target, protocol))
        raise AskedError

    artefact: Any = SimpleNamespace(folder=tmp_path / "artefact")
    with pytest.raises(AskedError):
        trial_stages.measure(context, 2, artefact, trial_stages.Instruments(duet=measure))
    protocol = MeasurementProtocol(
        repetitions=7, spare=1, seconds=0.25, patience=3.0, warmup_seconds=WARMUP, block_samples=3
    )
    assert asked == [(artefact.folder, None, 4, context.job.target, protocol)]


@pytest.mark.parametrize(("there", "reference"), [([0, 1, 3], 1), ([0, 3], 0), ([], None)])
def test_a_trial_is_measured_beside_the_fp32_baseline(
    context: TrialContext, there: list[int], reference: int | None
) -> None:
    write_sweep(context.folder, [record for record in fake_records() if record.number in there])
    found = context.reference(4)
    assert (None if found is None else found.number) == reference
    assert context.reference(0) is None


def test_the_front_is_compared_as_its_job_says(context: TrialContext, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def compare(folders: list[Path], images: list[Any], target: Any, **asked_for: Any) -> None:
        asked.append((folders, asked_for["rounds"], asked_for["baseline"]))
        assert asked_for["protocol"].block_samples == MeasurementProtocol().block_samples
        raise AskedError

    monkeypatch.setattr(comparison, "compare", compare)
    with pytest.raises(AskedError):
        finalists.compare_front(context, TWO)
    assert asked == [([context.folder / "zero", context.folder / "one"], 5, 1)]
