"""When a search ends before its last trial, and how it goes on."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from paretune.cli.main import main
from paretune.config.job import Job
from paretune.config.plan import read_plan
from paretune.config.search_settings import Search
from paretune.core.errors import UserError
from paretune.results.front_summary import front_text
from paretune.results.search_budget import SearchBudget, budget_text, busy_seconds, device_seconds
from paretune.results.sweep_changes import change_search
from paretune.results.sweep_folder import Sweep, find_sweep, new_sweep
from paretune.storage.trial_record import Record, read_records, write_record
from paretune.workflows.sweep import run_trials
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support_records import changed, complete, fake_records, finished_sweep, recipe

JOB = """\
dataset: {shapes: {}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
search: {trials: 40, sampler: random}
"""
SPACE = "{input_size: {choices: [128, 160]}, steps: [{prune: {ratio: {low: 0.1, high: 0.5}}}], runtime: onnxruntime}"


class Clock:
    """A clock that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def taking(number: int, start: float, seconds: float, quality: float = 0.4, ms: float = 4.0) -> Record:
    return changed(complete(number, recipe(160), quality, ms), started=start, seconds={"finetune": seconds})


BASELINES = [taking(0, 0.0, 10.0, ms=20.0), taking(1, 10.0, 10.0, ms=8.0)]


def budget_of(records: list[Record], clock: Clock, **search: Any) -> SearchBudget:
    job = Job.model_validate(
        {
            "dataset": {"shapes": {}},
            "detector": {"yolo": {"variant": "nano"}},
            "space": "space.yaml",
            "search": search,
            "resources": {"gpu": 2} if search.pop("gpus", None) else {},
        }
    )

    class Told(Sweep):
        facts = {"job": job.tree()}  # noqa: RUF012 - of this test only

        def feasible(self, _record: Record) -> bool:
            return True

    Told.job = job  # type: ignore[assignment]
    return SearchBudget(Told(Path("runs"), "demo"), records, clock)


def test_seconds_of_trials_at_the_same_time_count_once_on_the_clock_and_each_on_the_device() -> None:
    records = [taking(0, 0.0, 10.0), taking(1, 5.0, 10.0), taking(2, 100.0, 1.0), taking(3, 100.5, 0.25)]
    assert busy_seconds(records) == pytest.approx(16.0)
    assert device_seconds(records) == pytest.approx(21.25)
    assert device_seconds(records, gpus=0.5) == pytest.approx(10.625)


def test_hours_are_those_of_earlier_runs_and_of_this_one_without_the_pause_between() -> None:
    clock = Clock()
    budget = budget_of(BASELINES, clock, hours=60 / 3600)
    for later, over in ((0.0, False), (39.0, False), (40.0, True)):
        clock.now = 100.0 + later
        assert (budget.spent() is not None) is over
    assert "search.hours: 0.0166667 h are over" in str(budget.spent())


def test_the_time_that_limits_leave_is_that_of_the_nearest_one() -> None:
    clock = Clock()
    assert budget_of(BASELINES, clock).seconds_left() == math.inf
    assert budget_of([], clock, device_hours=1.0).seconds_left() == math.inf  # no rate is known yet
    budget = budget_of(BASELINES, clock, hours=100 / 3600, device_hours=70 / 3600)
    assert budget.seconds_left() == pytest.approx(50.0)  # 20 of 70 s of trials in 20 s on the clock
    budget.add(taking(2, 20.0, 10.0))
    budget.add(taking(3, 20.0, 10.0))  # two at a time: 40 s of trials in 30 s
    assert budget.seconds_left() == pytest.approx(30 * 30 / 40)
    clock.now += 65.0
    assert budget.seconds_left() == pytest.approx(15.0)
    clock.now += 100.0
    assert budget.seconds_left() == 0.0


def test_device_hours_are_those_of_all_trials_times_the_gpus() -> None:
    clock = Clock()
    budget = budget_of(BASELINES, clock, device_hours=50 / 3600)
    clock.now += 1e9
    assert budget.spent() is None
    budget.add(taking(2, 0.0, 29.0))
    assert budget.spent() is None
    budget.add(taking(3, 0.0, 1.0))
    assert "search.device_hours" in str(budget.spent())
    assert "search.device_hours" in str(budget_of(BASELINES, clock, device_hours=40 / 3600, gpus=True).spent())


def test_no_limit_ends_a_search_before_its_baselines() -> None:
    clock = Clock()
    budget = budget_of(BASELINES[:1], clock, hours=1e-6, device_hours=1e-6)
    clock.now += 9999
    assert budget.spent() is None
    budget.add(BASELINES[1])
    assert budget.spent() is not None


def test_a_front_that_no_longer_grows_ends_the_search() -> None:
    budget = budget_of(BASELINES, Clock(), stop_when_flat={"trials": 3, "gain": 0.05})
    for number, (quality, ms) in enumerate([(0.4, 5.0), (0.3, 9.0), (0.4, 4.95), (0.4, 2.0), (0.4, 2.0)], 2):
        assert budget.spent() is None
        budget.add(taking(number, 50.0 + number, 1.0, quality, ms))
    budget.add(Record.failed(7, {}, {}, "sampled", "died", started=60.0, seconds={"prune": 1.0}))
    assert budget.spent() is None
    budget.add(taking(8, 70.0, 1.0, 0.4, 1.99))
    assert budget.spent() == ("search.stop_when_flat: the last 3 trials raised the hypervolume by less than 0.05 of it")


def test_objectives_without_a_hypervolume_are_never_flat() -> None:
    job = {
        "dataset": {"shapes": {}},
        "detector": {"yolo": {"variant": "nano"}},
        "space": "space.yaml",
        "objectives": {"map": "maximize", "f1": "maximize"},
    }
    assert Job.model_validate(job).search.stop_when_flat is None
    with pytest.raises(ValidationError, match="one objective to maximize and one to minimize"):
        Job.model_validate({**job, "search": {"stop_when_flat": {}}})


@pytest.mark.parametrize("wrong", [{"hours": 0}, {"device_hours": -1}, {"stop_when_flat": {"gain": 0}}])
def test_a_limit_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Search.model_validate(wrong)


def test_the_budget_is_printed() -> None:
    assert budget_text(Search()) == "24 trials"
    limited = Search.model_validate({"hours": 2, "device_hours": 3.5, "stop_when_flat": {}})
    assert budget_text(limited) == (
        "24 trials, at most 2 h, at most 3.5 h of trials, until 8 trials raise the hypervolume by less than 0.01 of it"
    )


class Tune:
    """Carries out proposals two at a time, as Tune does; each trial takes a minute and finds nothing better."""

    def __init__(self, sweep: Sweep, *, interrupted: bool = False) -> None:
        self.sweep, self.interrupted, self.ran = sweep, interrupted, []

    def __call__(self, _trial: Any, searcher: Any, **_: Any) -> None:
        running: list[tuple[str, Any]] = []
        for turn in itertools.count():
            proposal = searcher.suggest(str(turn))
            if proposal == searcher.FINISHED or (proposal is None and self.interrupted):
                break
            if proposal is None:
                self.end(searcher, *running.pop(0))
                continue
            running.append((str(turn), proposal))
            if len(running) == 2 or not turn:
                self.end(searcher, *running.pop(0))
        while running:  # those that run when the search ends
            turn_id, proposal = running.pop(0)
            if self.interrupted:
                searcher.on_trial_complete(turn_id, None)
            else:
                self.end(searcher, turn_id, proposal)

    def end(self, searcher: Any, turn: str, proposal: dict[str, Any]) -> None:
        number = proposal["number"]
        self.ran.append(number)
        result: dict[str, Any] = {"metrics": {"map": 0.5, "latency_ms": 20.0 if number == 0 else 3.0}, "reasons": {}}
        what = (number, proposal["recipe"], {}, proposal["origin"])
        more = {"notes": (), "artefact": "a", "started": 60.0 * number, "seconds": {"prune": 60.0}}
        write_record(self.sweep.folder, Record.complete(*what, **result, **more))
        searcher.on_trial_complete(turn, {"number": number})


class Quiet(SweepReporter):
    def trial_done(self, _record: Record) -> None:
        """Neither front nor log."""


@pytest.fixture
def limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a sweep with a limited search."""
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return lambda search: new_sweep(
        read_plan(Path("job.yaml"), {f"search.{name}": value for name, value in search.items()}), "one"
    )


def run(sweep: Sweep, **how: Any) -> list[int]:
    tune = Tune(sweep, **how)
    run_trials(sweep, Quiet(sweep), share=2, tuner=tune)
    return tune.ran


def test_a_limit_ends_the_search_when_running_trials_are_done_and_a_larger_one_goes_on(
    limited: Any, capsys: Any
) -> None:
    sweep = limited({"device_hours": 0.1})  # six trials of a minute
    assert run(sweep) == [0, 1, 2, 3, 4, 5, 6]  # the seventh was running
    assert "search.device_hours: the trials took 0.10 h of 0.1 h" in str(sweep.ended)
    assert "the search ends after 7 trials: search.device_hours" in capsys.readouterr().out
    assert run(find_sweep(Path("runs"), "one")) == []
    more = change_search(sweep, device_hours=0.15)
    assert more.ended is None
    assert run(more) == [7, 8, 9]
    assert more.ended is not None


def test_a_flat_search_that_is_extended_tries_as_many_as_its_rule_again(limited: Any) -> None:
    sweep = limited({"stop_when_flat": {"trials": 4, "gain": 0.01}})
    first = run(sweep)
    assert first == list(range(len(first)))
    assert 6 <= len(first) <= 7
    assert "stop_when_flat" in str(sweep.ended)
    more = change_search(sweep, trials=41)
    assert 4 <= len(run(more)) <= 5


def test_ctrl_c_while_the_last_trials_run_is_no_end_of_the_search(limited: Any) -> None:
    sweep = limited({"device_hours": 0.1})
    assert run(sweep, interrupted=True) == [0, 1, 2, 3, 4, 5]
    assert sweep.ended is None


@pytest.mark.parametrize(
    ("changes", "goes_on"),
    [({"hours": 3.0}, True), ({"trials": 20}, True), ({"concurrent": 2}, False), ({"trials": 14}, False)],
)
def test_only_a_larger_budget_opens_a_finished_sweep(changes: dict[str, Any], goes_on: bool, tmp_path: Path) -> None:
    job = {"dataset": {"shapes": {}}, "detector": {"yolo": {"variant": "nano"}}, "space": "space.yaml"}
    trials = 16 if "hours" in changes else 14
    sweep = finished_sweep(tmp_path, {**job, "search": {"trials": trials, "hours": 1.0}})
    sweep.mark_ended("search.hours: 1 h are over")
    assert "the search ended before its last trial: search.hours: 1 h are over" in front_text(sweep)
    more = change_search(sweep, **changes)
    assert (more.ended is None, more.finished) == (goes_on, not goes_on)
    assert more.facts.get("extended_at") == (len(fake_records()) if goes_on else None)
    assert len(read_records(more.folder)) == 14


def test_a_wrong_limit_of_resume_is_refused_and_front_prints_the_end_as_json(tmp_path: Path, capsys: Any) -> None:
    job = {"dataset": {"shapes": {}}, "detector": {"yolo": {"variant": "nano"}}, "space": "space.yaml"}
    sweep = finished_sweep(tmp_path, job)
    with pytest.raises(UserError, match=r"^--device-hours -1"):
        change_search(sweep, device_hours=-1)
    assert main(["resume", "demo", "--runs", str(tmp_path), "--hours", "0"]) == 2
    assert "--hours 0" in capsys.readouterr().err
    for reason in (None, "search.hours: 1 h are over"):
        if reason is not None:
            sweep.mark_ended(reason)
        assert main(["front", "demo", "--runs", str(tmp_path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["search_ended"] == reason
