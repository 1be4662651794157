"""The scheduler that a job names is the one that Ray Tune asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from paretune.config.job import Job
from paretune.config.plan import read_plan
from paretune.distributed.tune_schedulers import SCHEDULERS, HalvingScheduler, Scheduler
from paretune.results.sweep_folder import new_sweep
from paretune.workflows.sweep import run_trials
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support import ROOT

PACKAGE = str(ROOT / "platform")

JOB = """\
dataset: shapes
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
search: {trials: 4, sampler: random, scheduler: {noting: {patience: 3}}}
"""
SPACE = "{steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"


class Noting(Scheduler):
    """A row of somebody's own."""

    name: ClassVar[str] = "noting"
    patience: int = 1

    def build(self) -> Any:
        """Return what is passed on."""
        return ("noting", self.patience)


@pytest.fixture
def noting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULERS.rows, "noting", f"{__name__}:Noting")


def test_no_scheduler_is_the_default(noting: None) -> None:
    job = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml"}
    assert Job.model_validate(job).search.scheduler.named() == {"none": {}}
    assert Job.model_validate(job).search.scheduler.build() is None
    with pytest.raises(ValueError, match=r"unknown scheduler 'notin' \(did you mean 'noting'\?\)"):
        Job.model_validate({**job, "search": {"scheduler": "notin"}})


def test_the_tuner_gets_what_the_row_builds(noting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    Path("space.yaml").write_text(SPACE)
    sweep, given = new_sweep(read_plan(Path("job.yaml")), "one"), list[Any]()
    assert sweep.job.search.scheduler.named() == {"noting": {"patience": 3}}

    def tune(*_: Any, scheduler: Any, **__: Any) -> None:
        given.append(scheduler)

    run_trials(sweep, SweepReporter(sweep), share=1, tuner=tune)
    assert given == [("noting", 3)]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"objectives": {"map50": "maximize", "latency_ms": "minimize"}}, "map50"),
        ({"objectives": {"map": "maximize", "size_mib": "minimize"}}, "size_mib"),
        ({"detector": "faster_rcnn"}, "faster_rcnn"),
        ({"training": {"workers": 2}}, "one worker"),
        ({"training": {"with_ray": True}}, "one worker"),
    ],
)
def test_halving_is_refused_where_trials_cannot_be_compared_on_the_way(change: dict[str, Any], word: str) -> None:
    job = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "search": {"scheduler": "halving"}}
    assert Job.model_validate(job).search.scheduler.rungs(20) == (5, 10)
    with pytest.raises(ValueError, match=word):
        Job.model_validate(job | change)
    Job.model_validate({name: value for name, value in (job | change).items() if name != "search"})


@pytest.mark.parametrize("shares", [(0.5, 0.25), (0.5, 0.5), (0.0, 0.5), (0.5, 1.0), ()])
def test_rungs_are_shares_that_rise(shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        HalvingScheduler(shares=shares)
    assert HalvingScheduler(shares=(0.1, 0.5), least_epochs=2).rungs(2) == (1,)  # both are the first epoch
    assert HalvingScheduler().rungs(3) == ()


SCRIPT = """
import sys
from pathlib import Path
from paretune.distributed import ray_session, tune_trials

with ray_session.session(Path(sys.argv[1])):  # Ray is imported in it
    from ray.tune.schedulers import FIFOScheduler
    from ray.tune.search import Searcher

    class Noting(FIFOScheduler):
        def on_trial_result(self, tune_controller, trial, result):
            print("seen", result["number"])
            return super().on_trial_result(tune_controller, trial, result)

    class Two(Searcher):
        left = 2

        def suggest(self, trial_id):
            self.left -= 1
            return {} if self.left >= 0 else Searcher.FINISHED

        def on_trial_complete(self, trial_id, result=None, error=False):
            pass

    more = {"concurrent": 1, "resources": {"CPU": 1}, "folder": Path(sys.argv[1])}
    tune_trials.run_trials(lambda _: {"number": 7}, Two(), scheduler=Noting(), **more)
"""


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
def test_tune_asks_the_scheduler_about_each_trial(tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": PACKAGE})
    assert [line for line in done.stdout.splitlines() if line.startswith("seen")] == ["seen 7"] * 2, done.stderr
