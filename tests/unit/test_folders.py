"""A sweep that may try more than it was made for, or other numbers at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.cli import main
from paretune.errors import UserError
from paretune.folders import Sweep, change_search, find_sweep
from paretune.job import Job
from tests_support_records import fake_records, write_sweep

JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": 160,
    "space": "space.yaml",
    "search": {"trials": 14, "seed": 3},
}


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    """A finished sweep of fourteen trials, whose space was used up."""
    made = Sweep(tmp_path, "demo")
    made.folder.mkdir()
    facts = {"paretune": "0", "name": "demo", "created": 5.0, "job": Job.model_validate(JOB).tree(), "promises": []}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    write_sweep(made.folder, fake_records())
    made.mark_exhausted()
    made.mark_finished()
    return made


def test_a_finished_sweep_goes_on_when_it_may_try_more(sweep: Sweep) -> None:
    more = change_search(sweep, trials=20)
    assert not more.finished
    assert not more.exhausted
    before, after = sweep.facts, json.loads((sweep.folder / "sweep.json").read_text())
    assert after["job"].pop("search") == {**before["job"]["search"], "trials": 20}
    assert more.job.search.trials == find_sweep(sweep.runs, "demo").job.search.trials == 20
    before["job"].pop("search")
    assert after == before  # all else stays, the time of its making by which the log finds it too


def test_as_many_as_before_change_nothing(sweep: Sweep) -> None:
    text = (sweep.folder / "sweep.json").read_text()
    same = change_search(sweep, trials=14)
    assert same.finished
    assert same.exhausted
    assert json.loads((sweep.folder / "sweep.json").read_text()) == json.loads(text)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--trials 13", "--trials 13: sweep 'demo' may try 14 already; give 15 or more\n"),
        ("--trials 100001", "--trials 100001: Input should be less than or equal to 100000\n"),
        ("--concurrent 0", "--concurrent 0: Input should be greater than or equal to 1\n"),
        ("--trials 20 --concurrent 2000", "--concurrent 2000: Input should be less than or equal to 1024\n"),
    ],
)
def test_fewer_and_far_too_many_are_refused(
    words: str, said: str, sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["resume", "demo", "--runs", str(sweep.runs), *words.split()]) == 2
    assert capsys.readouterr().err == said
    assert sweep.finished
    assert find_sweep(sweep.runs, "demo").job.search.trials == 14


def test_more_at_once_leaves_the_budget_and_what_is_done(sweep: Sweep) -> None:
    more = change_search(sweep, concurrent=4)
    assert (more.job.search.concurrent, more.job.search.trials) == (4, 14)
    assert more.finished
    assert more.exhausted


def test_nothing_is_changed_under_a_sweep_that_runs(sweep: Sweep) -> None:
    with sweep.lock(), pytest.raises(UserError, match="is being run by another process"):
        change_search(sweep, trials=20)
    assert sweep.finished
    assert find_sweep(sweep.runs, "demo").job.search.trials == 14
