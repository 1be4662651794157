"""The searcher runs trials again whose process died, keeps paused ones, and ends when nothing is left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from paretune.core.baselines import BASELINES
from paretune.distributed.tune_searcher import StudySearcher
from paretune.search.observations import OBSERVED
from paretune.search.samplers import Random
from paretune.search.space import Choices, Fields, Fixed, Space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_settings import StudySettings
from paretune.storage.trial_events import read_events
from paretune.storage.trial_record import STOPPED, Record, read_record, trial_folder, write_record
from paretune.workflows.trial_worker import record_of
from tests_support_records import complete, recipe

SPACE = Space(
    Fields({"input_size": Choices("input_size", {64 + 32 * n: Fixed(64 + 32 * n, 1) for n in range(12)}, 1)}, 1), "s"
)


def normal(raw: Mapping[str, Any]) -> dict[str, Any]:
    return recipe(raw["input_size"])


class Rungs:
    """Promotes the trials that a test names, and lets those that it names be finalists."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good: list[int] = []
        self.hopeful: list[int] = []
        self.stopped: list[int] = []

    def promotable(self, paused: Collection[int]) -> int | None:
        return next((number for number in self.good if number in paused), None)

    def finalist(self, paused: Collection[int]) -> int | None:
        return next((number for number in self.hopeful if number in paused), None)

    def expected(self, number: int) -> dict[str, float]:
        return {"map": 0.1 * number, "map_low": 0.1 * number - 0.02, "map_high": 0.1 * number + 0.02}

    def stop(self, proposals: Iterable[Mapping[str, Any]]) -> Iterator[Record]:
        for proposal in proposals:
            number, known = proposal["number"], {"expected_map": 0.4, "expected_latency_ms": 2.0}
            self.stopped.append(number)
            more: dict[str, Any] = {"stage": "finetune", "metrics": known, "facts": {}, "started": 1.0}
            record = Record.stopped(number, proposal["recipe"], {}, "sampled", "slow", **more)
            write_record(self.folder, record)
            yield record


class Search:
    """A searcher of a study without Ray."""

    def __init__(
        self,
        folder: Path,
        count: int,
        *,
        retries: int = 1,
        records: Sequence[Record] = (),
        paused: Collection[int] = (),
    ) -> None:
        self.folder, self.rungs, self.told, self.said = folder, Rungs(folder), list[Record](), list[str]()
        fixed = [(recipe(160, runtime=runtime), "baseline") for runtime in BASELINES]
        objectives: dict[str, Any] = {"map": "maximize", "latency_ms": "minimize"}
        settings = StudySettings(SPACE, objectives, lambda _: {}, Random(), 0, normal, fixed, paused=paused)
        self.study = Study(StudyDatabase(folder / "study.db", "one"), settings, records)
        self.spent: str | None = None
        self.searcher = StudySearcher(
            self.study,
            lambda proposal: record_of(folder, proposal, retries=retries, say=self.said.append),
            self.told.append,
            lambda: self.spent,
            count=count,
            rungs=self.rungs,
        )
        self.turn = 0

    def next(self) -> tuple[str, Any]:
        """Return Tune's id and the next trial, or what the searcher answers instead."""
        self.turn += 1
        return str(self.turn), self.searcher.suggest(str(self.turn))

    def run(self, *, pause: Collection[int] = (), dies: Collection[int] = ()) -> int:
        """Run the next trial, and return its number."""
        turn, config = self.next()
        number: int = config["number"]
        if number in dies:
            self.searcher.on_trial_complete(turn, None, error=True)
        elif number in pause:
            self.searcher.on_trial_complete(turn, {"number": number, "state": "paused"})
        else:
            write_record(self.folder, complete(number, dict(config["recipe"]), 0.5, 3.0))
            self.searcher.on_trial_complete(turn, {"number": number, "state": "complete"})
        return number

    @property
    def finished(self) -> bool:
        return bool(self.next()[1] == self.searcher.FINISHED)


@pytest.fixture
def search(tmp_path: Path) -> Search:
    return Search(tmp_path, 6)


def test_it_ends_after_its_count(search: Search) -> None:
    assert [search.run() for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert search.finished
    assert [record.number for record in search.told] == list(range(6))


def test_it_waits_while_a_trial_runs(search: Search) -> None:
    for _ in range(5):
        search.run()
    turn, config = search.next()
    assert search.next()[1] is None
    write_record(search.folder, complete(config["number"], dict(config["recipe"]), 0.5, 3.0))
    search.searcher.on_trial_complete(turn, {"state": "complete"})
    assert search.finished


def test_a_trial_whose_process_died_is_run_again_as_often_as_allowed(search: Search) -> None:
    assert [search.run(dies={2}) for _ in range(4)] == [0, 1, 2, 2]
    record = read_record(search.folder, 2)
    assert record is not None
    assert record.state == "failed"
    assert "died 2 times" in str(record.failure)
    assert [event.kind for event in read_events(trial_folder(search.folder, 2))] == ["died", "died"]
    assert len(search.said) == 1
    assert [search.run() for _ in range(3)] == [3, 4, 5]
    assert search.finished


def test_a_trial_that_died_once_is_completed(search: Search) -> None:
    assert [search.run(dies={1}) for _ in range(2)] == [0, 1]
    assert [search.run() for _ in range(5)] == [1, 2, 3, 4, 5]
    assert search.finished
    assert {record.state for record in search.told} == {"complete"}


def test_a_paused_trial_goes_on_when_it_is_good_enough(search: Search) -> None:
    assert [search.run(pause={2, 3}) for _ in range(4)] == [0, 1, 2, 3]
    search.rungs.good = [3]
    assert search.run() == 3
    assert [search.run() for _ in range(2)] == [4, 5]
    search.rungs.hopeful = [2]
    assert search.run() == 2
    assert search.finished
    assert search.rungs.stopped == []


def test_what_stays_paused_is_stopped_and_told_with_what_is_expected_of_it(search: Search) -> None:
    for _ in range(6):
        search.run(pause={2, 5})
    assert search.finished
    assert search.rungs.stopped == [2, 5]
    assert [record.number for record in search.told] == [0, 1, 3, 4, 2, 5]
    search.study.close()
    import optuna

    study = optuna.load_study(study_name="one", storage=f"sqlite:///{search.folder / 'study.db'}")
    values = {trial.user_attrs.get("paretune.trial"): trial.values for trial in study.get_trials()}
    assert values[2] == [0.4, 2.0]
    assert values[3] == [0.5, 3.0]


def test_a_spent_budget_starts_nothing_new_and_finishes_finalists(search: Search) -> None:
    for _ in range(4):
        search.run(pause={2, 3})
    search.spent = "an hour is over"
    search.rungs.good, search.rungs.hopeful = [2, 3], [3]
    assert search.run() == 3
    assert search.finished
    assert search.rungs.stopped == [2]
    assert search.searcher.ended == "an hour is over"


def test_an_interrupted_search_stops_no_paused_trial(search: Search) -> None:
    for _ in range(4):
        search.run(pause={2})
    turn, config = search.next()
    search.searcher.on_trial_complete(turn, None)
    assert search.rungs.stopped == []
    assert read_record(search.folder, config["number"]) is None
    assert read_record(search.folder, 2) is None


def test_paused_trials_are_known_after_a_restart_and_do_not_go_on_by_themselves(tmp_path: Path) -> None:
    first = Search(tmp_path, 6)
    for _ in range(5):
        first.run(pause={2, 4})
    before = {number: dict(config["recipe"]) for number, config in first.searcher._paused.items()}
    first.study.close()
    records = [record for number in (0, 1, 3) if (record := read_record(tmp_path, number)) is not None]
    again = Search(tmp_path, 3, records=records, paused=[2, 4])
    assert {number: config["recipe"] for number, config in again.searcher._paused.items()} == before
    assert again.run() == 5
    again.rungs.good = [4]
    assert again.run() == 4
    again.rungs.hopeful = [2]
    again.searcher._left = 0
    assert again.run() == 2
    assert again.finished


def test_a_stopped_trial_holds_what_was_expected_of_it(search: Search) -> None:
    (record,) = search.rungs.stop([{"number": 2, "recipe": recipe(64)}])
    assert record.expected == {"map": 0.4, "latency_ms": 2.0}
    assert record.facts[STOPPED]["reason"] == "slow"


def test_what_is_expected_of_a_paused_trial_reaches_the_study(search: Search) -> None:
    numbers = [search.run(pause={3}) for _ in range(4)]
    assert numbers == [0, 1, 2, 3]
    paused = search.study._study.get_trials(deepcopy=False)[-1]
    assert paused.user_attrs[OBSERVED]["values"] == [pytest.approx(0.3), None]
    assert paused.user_attrs[OBSERVED]["deviations"][0] == pytest.approx(0.02 / 1.96)
