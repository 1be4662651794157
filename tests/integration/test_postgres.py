"""The study of a sweep on a PostgreSQL server that the tests start: all that a file holds, and sixteen writers."""

from __future__ import annotations

import multiprocessing
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from paretune.core.errors import UserError
from paretune.core.yaml_document import read_yaml
from paretune.search.samplers import Random
from paretune.search.space_reader import read_space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_file import NUMBER, points_in
from paretune.search.study_settings import Proposal, StudySettings
from paretune.storage.trial_record import Record
from tests_support import free_port

BIN = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
SPACE = """\
input_size: {choices: [64, 96, 128, 160, 192, 224, 256, 288]}
steps:
  - prune: {ratio: {low: 0.0, high: 0.6, step: 0.1}}
runtime: onnxruntime
"""
SECRET = "a-canary-of-this-test"  # noqa: S105 - of a server that ends with the test
WRITERS, EACH = 16, 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BIN is None, reason="there is no PostgreSQL (apt-get install postgresql)"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of our own on a port of 127.0.0.1, whose user must give a password; yields its address."""
    assert BIN is not None
    pytest.importorskip("pg8000")
    folder, port = Path(tempfile.mkdtemp(prefix="pg-")), free_port()
    try:
        user = {"user": "postgres"} if os.geteuid() == 0 and pwd.getpwnam("postgres") else {}  # it refuses root
    except KeyError:
        pytest.skip("there is no user postgres, and root may not run the server")
    (folder / "password").write_text(SECRET)
    for path in (folder, folder / "password"):
        path.chmod(0o755)
        if user:
            shutil.chown(path, "postgres")

    def run(*words: object) -> None:
        subprocess.run(list(map(str, words)), check=True, stdout=subprocess.DEVNULL, cwd=folder, **user)  # type: ignore[call-overload]

    made = ("-A", "scram-sha-256", "-U", "me", f"--pwfile={folder / 'password'}", "--no-sync")
    run(BIN / "initdb", "-D", folder / "data", *made)
    options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off"
    run(BIN / "pg_ctl", "-D", folder / "data", "-o", options, "-l", folder / "log", "-w", "start")
    try:
        yield f"127.0.0.1:{port}/postgres"
    finally:
        run(BIN / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("STUDY_PASSWORD", SECRET)
    return f"postgresql://me:$STUDY_PASSWORD@{server}"


def settings(folder: Path) -> StudySettings:
    (folder / "s.yaml").write_text(SPACE)
    return StudySettings(
        space=read_space(read_yaml(folder / "s.yaml")),
        objectives={"map": "maximize", "latency_ms": "minimize"},
        violations=lambda _: {},
        sampler=Random(),
        seed=0,
        normal=lambda recipe: recipe,
        fixed=[({"input_size": "64", "steps": [], "runtime": "eager"}, "baseline")],
    )


def record(proposal: Proposal, quality: float) -> Record:
    metrics = {"map": quality, "latency_ms": 3.0}
    return Record.complete(
        proposal.number, proposal.recipe, {}, proposal.origin, metrics=metrics, reasons={}, notes=(), artefact=None,
        started=0.0,
    )  # fmt: skip


def test_a_study_is_kept_goes_on_and_is_what_optunas_tools_see(url: str, tmp_path: Path) -> None:
    database = StudyDatabase(tmp_path / "study.db", "cells 17", url)
    assert not database.is_there
    study = Study(database, settings(tmp_path), ())
    done = list[Record]()
    for number in range(1, 4):
        done.append(record(study.propose(), 0.1 * number))
        study.tell(done[-1])
    open_one = study.propose()
    study.close()
    assert database.is_there
    assert not database.file.exists()
    assert set(points_in(database)) == {1, 2, 3}  # the baseline is none of the study's
    storage = database.storage()
    stored = optuna.load_study(study_name="cells 17", storage=storage)
    assert stored.metric_names == ["map", "latency_ms"]
    values = {trial.user_attrs[NUMBER]: trial.values for trial in stored.trials}
    assert values == {one.number: [one.metrics["map"], 3.0] for one in done[1:]} | {open_one.number: None}
    storage.engine.dispose()
    again = Study(database, settings(tmp_path), done)
    assert again.propose() == open_one  # as it was, under its number
    again.close()


def _write(url: str, folder: str, number: int, failures: Any) -> None:
    """Search in a study of one's own in the shared database."""
    try:
        place = Path(folder) / str(number)
        place.mkdir()
        study = Study(StudyDatabase(place / "study.db", f"writer {number}", url), settings(place), ())
        for _ in range(EACH):
            study.tell(record(study.propose(), 0.5))
            study.save()
        study.close()
    except Exception as error:  # noqa: BLE001 - told to the test
        failures.put(f"{number}: {error!r}")


@pytest.mark.timeout(300)
def test_sixteen_writers_at_once_meet_no_lock_and_lose_nothing(url: str, tmp_path: Path) -> None:
    start = multiprocessing.get_context("fork")
    failures = start.Queue()
    StudyDatabase(tmp_path / "first.db", "first", url).storage().engine.dispose()  # makes the tables
    writers = [start.Process(target=_write, args=(url, str(tmp_path), number, failures)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [failures.get() for _ in range(failures.qsize())] == []
    for number in range(WRITERS):
        found = points_in(StudyDatabase(tmp_path / str(number) / "study.db", f"writer {number}", url))
        assert set(found) == set(range(1, EACH))


@pytest.mark.parametrize(
    ("wrong", "part"),
    [
        ({"STUDY_PASSWORD": "not the one"}, "password authentication failed"),
        ({}, "cannot be opened there"),
    ],
    ids=["another password", "nobody listens"],
)
def test_a_server_that_refuses_is_told_in_one_line_without_the_password(
    wrong: dict[str, str], part: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    address = url if wrong else f"postgresql://me:$STUDY_PASSWORD@127.0.0.1:{free_port()}/postgres"
    with pytest.raises(UserError) as refused:
        Study(StudyDatabase(tmp_path / "study.db", "s", address), settings(tmp_path), ())
    text = str(refused.value)
    assert text.startswith("search.storage: postgresql://127.0.0.1:")
    assert part in text
    assert SECRET not in text
    assert len(text.splitlines()) == 1
