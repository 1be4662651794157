"""A study whose process was killed knows every trial that it has proposed, with or without a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from paretune.core.yaml_document import read_yaml
from paretune.search.samplers import Random
from paretune.search.space_reader import read_space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_file import JOURNAL, NUMBER, StudyFile
from paretune.search.study_settings import Proposal, StudySettings
from paretune.storage.trial_record import Record

SPACE = """\
input_size: {choices: [64, 96, 128, 160, 192, 224, 256, 288]}
steps:
  - prune: {ratio: {low: 0.0, high: 0.6, step: 0.1}}
runtime: onnxruntime
first:
  - {input_size: 96, prune.ratio: 0.3}
"""


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make studies of one file that never come to write to the database: each is killed soon."""
    (tmp_path / "s.yaml").write_text(SPACE)
    setup = StudySettings(
        space=read_space(read_yaml(tmp_path / "s.yaml")),
        objectives={"map": "maximize", "latency_ms": "minimize"},
        violations=lambda _: {},
        sampler=Random(),
        seed=0,
        normal=lambda recipe: recipe,
        fixed=[({"input_size": "64", "steps": [], "runtime": "eager"}, "baseline")],
    )
    monkeypatch.setattr(StudyFile, "changed", lambda *_: None)
    return lambda records=(): Study(StudyDatabase(tmp_path / "study.db", "s"), setup, records)


def record(proposal: Proposal, quality: float = 0.5) -> Record:
    metrics = {"map": quality, "latency_ms": 3.0}
    return Record.complete(
        proposal.number, proposal.recipe, {}, proposal.origin, metrics=metrics, reasons={}, notes=(), artefact=None,
        started=0.0,
    )  # fmt: skip


def rows(study: Study) -> dict[int, Any]:
    trials = study._study.get_trials(deepcopy=False)
    return {trial.user_attrs[NUMBER]: trial for trial in trials if NUMBER in trial.user_attrs}


def test_a_killed_study_knows_its_trials_and_their_results(killed: Any) -> None:
    study = killed()
    first = record(study.propose())
    study.tell(first)
    enqueued, drawn = study.propose(), study.propose()
    assert (enqueued.origin, drawn.origin) == ("enqueued", "sampled")
    before = {number: dict(trial.params) for number, trial in rows(study).items()}

    again = killed([first, record(enqueued, 0.4)])  # the records stay; the drawn trial has none
    after = rows(again)
    assert {number: dict(trial.params) for number, trial in after.items()} == before
    assert after[enqueued.number].state == optuna.trial.TrialState.COMPLETE
    assert after[enqueued.number].values == [0.4, 3.0]
    assert after[enqueued.number].user_attrs["origin"] == "enqueued"
    assert again.propose() == drawn  # under its number, in whose folder it may have left something
    waiting = [t for t in again._study.get_trials() if t.state == optuna.trial.TrialState.WAITING]
    assert not waiting  # the enqueued one is not run a second time


def test_a_closed_study_has_all_in_its_database(killed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = killed()
    first = record(study.propose())
    study.tell(first)
    second = record(study.propose())
    monkeypatch.undo()
    again = killed([first, second])
    again.close()
    stored = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}")
    (trial,) = [trial for trial in stored.trials if NUMBER in trial.user_attrs]
    assert (trial.user_attrs[NUMBER], trial.values) == (second.number, [0.5, 3.0])


@pytest.mark.parametrize("torn", [b'{"params": {"x"', b"[]\n", b"\xff\xfe\n", b'{"params": {}}\n'])
def test_a_torn_line_loses_itself_alone(killed: Any, tmp_path: Path, torn: bytes) -> None:
    study = killed()
    first = record(study.propose())
    study.tell(first)
    one = study.propose()
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(torn)
    two = study.propose()
    again = killed([first])
    assert [again.propose(), again.propose()] == [one, two]


def test_a_journal_that_cannot_be_written_stops_nothing(killed: Any, tmp_path: Path) -> None:
    study = killed()
    study.tell(record(study.propose()))
    (tmp_path / JOURNAL).mkdir()
    assert study.propose().origin == "enqueued"


@pytest.mark.parametrize("damage", [b"not a database", b""])
def test_a_damaged_database_is_made_again(killed: Any, tmp_path: Path, monkeypatch: Any, damage: bytes) -> None:
    study = killed()
    first = record(study.propose())
    study.tell(first)
    proposals = [study.propose() for _ in range(4)]
    records = [first, *(record(one, 0.1 * one.number) for one in proposals)]
    for one in records[1:]:
        study.tell(one)
    before = {number: (dict(trial.params), trial.values) for number, trial in rows(study).items()}
    monkeypatch.undo()
    study.close()
    whole = (tmp_path / "study.db").read_bytes()
    (tmp_path / "study.db").write_bytes(damage + whole[len(damage) : len(whole) // 2])

    again = killed(records)
    assert again.rebuilt
    assert (tmp_path / "study.db.damaged").exists()
    assert {number: (dict(trial.params), trial.values) for number, trial in rows(again).items()} == before
    again.close()
    assert not killed(records).rebuilt


def test_a_trial_whose_record_was_removed_is_run_again_under_its_number(killed: Any, monkeypatch: Any) -> None:
    study = killed()
    first = record(study.propose())
    study.tell(first)
    proposals = [study.propose() for _ in range(3)]
    records = [first, *(record(one) for one in proposals)]
    for one in records[1:]:
        study.tell(one)
    monkeypatch.undo()
    study.close()
    again = killed([one for one in records if one.number != 2])
    assert again.propose() == proposals[1]
    assert again.propose().number == 4
