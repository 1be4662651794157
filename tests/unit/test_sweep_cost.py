"""What a dry run prints: the trials, and the time from an earlier sweep or from a probe."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from paretune.cli.main import main
from paretune.config.job import Job
from paretune.config.plan import read_plan
from paretune.results.sweep_cost import (
    PlannedTrials,
    Span,
    SweepTimes,
    duration,
    earlier_sweep,
    estimate,
    estimate_text,
    times_of,
)
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import forget_record
from paretune.workflows.dry_run import dry_run, expected_recipes, planned_trials, probed_times, training_epochs
from tests_support_records import comparison, finished_sweep

JOB = """\
dataset: {shapes: {train: 16, val: 8, size: 64x48}}
detector: {yolo: {variant: nano, width: 0.125}}
input_size: 64x64
training: {epochs: 3, batch_size: 8}
space: space.yaml
search: {trials: 10, sampler: random}
measuring: {energy_seconds: 0}
"""
SPACE = """\
input_size: {choices: [32x32, 64x64]}
steps:
  - name: slim
    choices:
      none: null
      pruned: [{prune: {ratio: {low: 0.2, high: 0.6}}}, {finetune: {epochs: {low: 2, high: 6}}}]
runtime: onnxruntime
first:
  - {input_size: 64x64, slim: pruned, slim.pruned.finetune.epochs: 5}
  - {input_size: 32x32, slim: none}
"""
FIRST = {"input_size": "64x64", "steps": [{"finetune": {"epochs": 4}}], "runtime": "onnxruntime"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, in which commands run."""
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job_of(**search: Any) -> Job:
    job = {"dataset": {"shapes": {}}, "detector": {"yolo": {"variant": "nano"}}, "space": "space.yaml"}
    return Job.model_validate({**job, "search": search})


@pytest.mark.parametrize(
    ("trials", "planned"),
    [(2, (2, 0, 0, 0)), (3, (2, 1, 0, 0)), (4, (2, 1, 1, 0)), (10, (2, 1, 2, 5))],
)
def test_trials_come_in_the_order_of_a_sweep(place: Path, trials: int, planned: tuple[int, ...]) -> None:
    plan = read_plan(Path("job.yaml"), {"search.trials": trials, "search.first": [FIRST]})
    assert planned_trials(plan.job, plan.space) == PlannedTrials(*planned)


def test_expected_recipes_are_the_fixed_ones_and_a_share_of_the_drawn(place: Path) -> None:
    plan = read_plan(Path("job.yaml"), {"search.first": [FIRST]})
    expected = expected_recipes(plan.job, plan.space, planned_trials(plan.job, plan.space))
    assert sum(weight for _, weight in expected) == pytest.approx(8)
    assert [training_epochs(recipe) for recipe, _ in expected[:3]] == [4, 5, 0]
    assert {str(recipe.size) for recipe, _ in expected[:3]} == {"64", "32"}
    drawn = {training_epochs(recipe) for recipe, _ in expected[3:]}
    assert drawn == {0, 2, 3, 4, 5, 6}


TIMES = SweepTimes("invented", Span(50, 60, 70), Span(8, 10, 12), Span(25, 30, 35), 5.0, Span(10, 20, 40), 0.5)


def test_an_estimate_is_the_sum_of_its_parts() -> None:
    found = estimate(job_of(), PlannedTrials(2, 0, 4, 5), TIMES)
    spread = 1.96 * 5 * math.sqrt(9)
    assert found.device == Span(2 * 8 + 9 * 25 - spread, 290, 2 * 12 + 9 * 35 + spread)
    assert found.parts["trials"].likely == pytest.approx(145)  # two at a time
    assert found.total.likely == pytest.approx(60 + 145 + 20)
    assert found.tree()["total"]["likely"] == pytest.approx(225)


@pytest.mark.parametrize(
    ("search", "device", "clock"),
    [({"device_hours": 100 / 3600}, 100, 50), ({"hours": 100 / 3600}, 200, 100), ({"hours": 9.0}, 290, 145)],
)
def test_limits_in_hours_cut_the_trials(search: dict[str, Any], device: float, clock: float) -> None:
    found = estimate(job_of(**search), PlannedTrials(2, 0, 4, 5), TIMES)
    assert (found.device.likely, found.parts["trials"].likely) == (pytest.approx(device), pytest.approx(clock))


def test_gpu_hours_are_times_the_gpus_of_a_trial() -> None:
    job = Job.model_validate({**job_of().tree(), "resources": {"gpu": 2}})
    assert estimate(job, PlannedTrials(2, 0, 4, 5), TIMES).device.likely == pytest.approx(580)


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (200, "3 min"), (7200, "2.0 h")])
def test_durations_are_in_the_unit_that_suits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def earlier(runs: Path, **changes: Any) -> Sweep:
    """A finished sweep of fourteen trials with a dataset and a detector."""
    job = {"dataset": {"shapes": {}}, "detector": {"yolo": {"variant": "nano"}}, "space": "space.yaml"}
    made = finished_sweep(runs, {**job, "search": {"trials": 14}, **changes})
    made.baseline.mkdir()
    (made.baseline / "training.json").write_text(json.dumps({"epochs": [{"seconds": 4.0}, {"seconds": 2.0}]}))
    made.comparison.write_text(json.dumps({**comparison(), "ended": 1_790_000_000.0 + 40 * 13 + 35 + 90}))
    return made


def test_the_times_of_an_earlier_sweep_are_those_of_its_records(tmp_path: Path) -> None:
    sweep = earlier(tmp_path)
    times = times_of(sweep, job_of())
    assert times.baseline.likely == pytest.approx(35)
    seconds = [35.0] * 11 + [1.5]
    assert times.trial.likely == pytest.approx(sum(seconds) / 12)
    assert times.trial.low < times.trial.likely < times.trial.high
    assert times.training.likely == pytest.approx(3.0 * 30)  # seconds of an epoch, and epochs of the job
    assert times.comparison.likely == pytest.approx(90)
    assert times.stages["finetune"] == pytest.approx(25)
    assert times.notes == ()
    assert "'demo'" in times.source


def test_the_earlier_sweep_is_one_of_the_same_dataset_detector_and_sizes(tmp_path: Path) -> None:
    assert earlier_sweep(tmp_path, job_of()) is None
    sweep = earlier(tmp_path)
    assert earlier_sweep(tmp_path, job_of()) == sweep
    base = job_of().tree()
    for other in (
        {"dataset": {"shapes": {"seed": 5}}},
        {"detector": {"yolo": {"variant": "tiny"}}},
        {"input_size": 160},
        {"targets": {"local": {"threads": 2}}},
    ):
        assert earlier_sweep(tmp_path, Job.model_validate({**base, **other})) is None
    for number in range(2, 14):
        forget_record(sweep.folder, number)
    assert earlier_sweep(tmp_path, job_of()) is None


def test_what_differs_is_said(tmp_path: Path) -> None:
    sweep = earlier(tmp_path)
    sweep.comparison.unlink()
    job = Job.model_validate(
        {**job_of(concurrent=2).tree(), "training": {"epochs": 5}, "measuring": {"repetitions": 2}}
    )
    times = times_of(sweep, job)
    assert [word in " ".join(times.notes) for word in ("training", "measuring", "1 trials at a time")] == [True] * 3
    assert "not compared yet" in times.notes[-1]
    text = estimate_text(job, "next", estimate(job, PlannedTrials(2, 0, 4, 18), times), price=3.0)
    assert "less certain: its training settings differ" in text
    assert "cost at 3 an hour: about" in text
    assert "nothing was written" in text


@pytest.mark.slow
def test_a_probe_trains_and_infers_and_writes_nothing(place: Path, capsys: Any) -> None:
    before = sorted(place.rglob("*"))
    assert main(["sweep", "job.yaml", "--dry-run", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sorted(place.rglob("*")) == before
    assert told["trials"] == {"baselines": 2, "first": 0, "enqueued": 2, "sampled": 6}
    for part in ("training of the baseline", "trials", "comparison"):
        span = told["parts"][part]
        assert 0 <= span["low"] < span["likely"] < span["high"]
    assert told["times"]["stages"]["training steps"] > 0
    assert main(["sweep", "job.yaml", "--dry-run", "--price", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 baselines, 0 recipes of search.first, 2 first points of the space, 6 drawn by random" in text
    assert "a probe may be wrong by a factor of 2" in text
    assert sorted(place.rglob("*")) == before


@pytest.mark.slow
def test_a_probe_follows_the_epochs_of_the_recipes(place: Path) -> None:
    plan = read_plan(Path("job.yaml"))
    trials = planned_trials(plan.job, plan.space)
    expected = expected_recipes(plan.job, plan.space, trials)
    none = [(recipe, weight) for recipe, weight in expected if not training_epochs(recipe)]
    assert "training steps" not in probed_times(plan.job, none).stages
    times = probed_times(plan.job, expected[:1])  # five epochs at the size of the baseline
    assert times.stages["training steps"] / times.training.likely == pytest.approx(5 / 3)


def test_an_earlier_sweep_takes_the_place_of_the_probe(place: Path, capsys: Any) -> None:
    (place / "runs").mkdir()
    tree = read_plan(Path("job.yaml")).job.tree()
    sweep = earlier(place / "runs", **{name: tree[name] for name in ("dataset", "detector", "input_size", "training")})
    found = dry_run(read_plan(Path("job.yaml")), pytest.fail)
    assert found.trials.others == 8
    assert main(["sweep", "job.yaml", "--dry-run"]) == 0
    assert f"estimated from sweep '{sweep.name}'" in capsys.readouterr().out
    assert {path.name for path in (place / "runs").iterdir()} == {"demo"}


def test_options_of_a_dry_run_are_refused_without_it(place: Path, capsys: Any) -> None:
    assert main(["sweep", "job.yaml", "--price", "2"]) == 2
    assert "--price is for --dry-run" in capsys.readouterr().err
