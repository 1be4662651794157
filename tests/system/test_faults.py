"""Faults in sweeps of trials that cost nothing, by the code of `make bench NAME=faults`, and the checker itself.

After each fault the sweep is resumed to its end, and the checker finds nothing lost, nothing twice, and the front
that it recomputes from the records. In broken folders it finds what is broken.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests_support import ROOT

BENCHMARKS = ROOT / "tests" / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from faults_checker import check, recorded
from faults_sweep import NAME, Place

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]


FEW = "cut record,cut study,the log's database is locked,Ctrl-C"
"""Faults of the short form that are tried in every run of the tests."""


def faults(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Try faults in a folder by the script of the benchmark."""
    command = [sys.executable, str(BENCHMARKS / "faults.py"), *words, "--folder", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(BENCHMARKS)])}
    return subprocess.run(command, capture_output=True, text=True, timeout=850, check=False, env=environment)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What was tried with a moment of each of four faults, and the folder with a whole sweep."""
    folder = tmp_path_factory.mktemp("faults") / "bench"
    return faults(folder, "--short", "--only", FEW), folder


def test_nothing_is_lost_by_a_damaged_file_a_locked_log_and_an_interruption(tried: Any) -> None:
    done, _ = tried
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": right (") == len(FEW.split(",")), done.stdout


@pytest.mark.full
def test_nothing_is_lost_and_nothing_is_twice(tmp_path: Path) -> None:
    done = faults(tmp_path / "bench", "--short")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("F")]
    assert len(lines) >= 20, done.stdout
    assert all(": right (" in line for line in lines), done.stdout


@pytest.fixture
def whole(tried: Any) -> Place:
    _, folder = tried
    place = Place(folder / "place")
    shutil.rmtree(place.folder, ignore_errors=True)
    shutil.copytree(folder / "finished", place.folder)
    return place


def test_the_checker_finds_nothing_in_a_whole_sweep(whole: Place) -> None:
    assert check(whole, seen=recorded(whole)) == []


def _record(place: Place, number: int, change: Callable[[dict[str, Any]], Any]) -> None:
    file = place.sweep / "trials" / f"{number:04d}" / "record.json"
    body = json.loads(file.read_text())
    change(body)
    file.write_text(json.dumps(body))


def _sql(file: Path, script: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.executescript(script)
        assert database.total_changes


def _log(place: Place, script: str) -> None:
    _sql(place.runs / "mlflow.db", RUN + script)


RUN = """
CREATE VIEW third AS SELECT run_uuid FROM tags WHERE key = 'paretune.trial' AND value = '3';
"""
TWICE = """
CREATE TABLE again AS SELECT * FROM runs WHERE run_uuid IN third;
UPDATE again SET run_uuid = 'twice';
INSERT INTO runs SELECT * FROM again;
INSERT INTO tags SELECT key, value, 'twice' FROM tags WHERE run_uuid IN third;
"""
LOST = "UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid IN third"
RUNS = "UPDATE runs SET status = 'RUNNING' WHERE run_uuid IN third"
OTHER = "UPDATE latest_metrics SET value = 0.1 WHERE key = 'accuracy/map' AND run_uuid IN third"
STEP = """
INSERT INTO metrics SELECT key, value, timestamp + 1, run_uuid, step, is_nan FROM metrics
WHERE key = 'trials/done' AND step = 2
"""
VALUE = """
INSERT INTO metrics SELECT key, value + 1, timestamp, run_uuid, step, is_nan FROM metrics
WHERE key = 'accuracy/map' AND run_uuid IN third
"""
ON_FRONT = "UPDATE tags SET value = 'true' WHERE key = 'paretune.front' AND value = 'false'"
FORGOTTEN = "DELETE FROM trial_user_attributes WHERE key = 'paretune.trial' AND value_json = '4'"
BOTH = "UPDATE trial_user_attributes SET value_json = '4' WHERE value_json = '3'"


def _fails(body: dict[str, Any]) -> None:
    body.update(state="failed", failure="x")


def _repeats(place: Place) -> None:
    other = json.loads((place.sweep / "trials" / "0003" / "record.json").read_text())["recipe"]
    _record(place, 2, lambda body: body.update(recipe=other))


def _store(place: Place) -> None:
    next((place.runs / "store").glob("??/*/*/weights*")).write_bytes(b"x")


def _study(place: Place, script: str) -> None:
    _sql(place.sweep / "study.db", script)


def _write(name: str, text: str) -> Callable[[Place], Any]:
    return lambda place: (place.sweep / name).write_text(text)


def _cut(name: str, size: int) -> Callable[[Place], Any]:
    return lambda place: os.truncate(place.sweep / name, size)


BREAKS: dict[str, tuple[str, Callable[[Place], Any]]] = {
    "a lost record": ("C1: records", lambda place: (place.sweep / "trials/0004/record.json").unlink()),
    "a changed record": (
        "C1: the record of trial 0002",
        lambda place: _record(place, 2, lambda b: b.update(started=1)),
    ),
    "a cut record": ("C1: a record cannot be read", _cut("trials/0003/record.json", 99)),
    "a failed trial": ("C1: trial 2 failed", lambda place: _record(place, 2, _fails)),
    "a recipe twice": ("C2: 2 trials have the recipe", _repeats),
    "a run twice": ("C2: the log has runs of the trials", lambda place: _log(place, TWICE)),
    "a lost run": ("C2: the log has runs of the trials", lambda place: _log(place, LOST)),
    "a run that runs": ("C2: trial 3 is complete, and RUNNING", lambda place: _log(place, RUNS)),
    "another value in the log": ("C2: map of trial 3", lambda place: _log(place, OTHER)),
    "a step twice": ("C5: steps", lambda place: _log(place, STEP)),
    "a value twice": ("C5: accuracy/map of", lambda place: _log(place, VALUE)),
    "a trial that the study lost": ("C2: the study does not know trial 4", lambda place: _study(place, FORGOTTEN)),
    "a trial twice in the study": ("C2: the study has trial 4 2 times", lambda place: _study(place, BOTH)),
    "a row that runs": ("C6: the study says", lambda place: _study(place, "UPDATE trials SET state='RUNNING'")),
    "a wrong value": ("C2: the study has other", lambda place: _study(place, "UPDATE trial_values SET value=9")),
    "a damaged database": ("C2: study.db", _cut("study.db", 5000)),
    "a wrong front": ("C4: the front is", _write("front/front.json", '{"front": [{"trial": 0}]}')),
    "a wrong front in the log": ("C4: trial 0", lambda place: _log(place, ON_FRONT)),
    "an infinite figure": (
        "C3: trial 3: not finite",
        lambda place: _record(place, 3, lambda b: b["metrics"].update(map50=float("inf"))),
    ),
    "a damaged artefact": ("C3: trial 2: model.onnx", _write("trials/0002/artefact/model.onnx", "x")),
    "a damaged entry of the store": ("C3: the store's entry", _store),
    "an unfinished sweep": ("C6: the sweep is not finished", lambda place: (place.sweep / "finished").unlink()),
    "a temporary file": ("C7: runs/cheap/trials/0001/.record", _write("trials/0001/.record.json.99.part", "")),
    "a working folder": ("C7: runs/cheap/trials/0001/work", lambda p: (p.sweep / "trials/0001/work").mkdir()),
    "a changed space": ("C8", _write("space.yaml", "runtime: eager")),
    "no sweep": ("C1: the sweep's folder is gone", lambda place: shutil.rmtree(place.sweep)),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_the_checker_finds_what_is_broken(whole: Place, broken: str) -> None:
    sentence, damage = BREAKS[broken]
    seen = recorded(whole)
    damage(whole)
    wrong = check(whole, seen=seen)
    assert any(line.startswith(sentence) for line in wrong), wrong


def test_the_checker_finds_a_process_and_a_lock_that_are_left(whole: Place) -> None:
    hold = (
        f"import fcntl, time; f = open('runs/{NAME}/.lock'); fcntl.flock(f, 2); print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], cwd=whole.folder, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        wrong = check(whole)
        process.kill()
    assert [line.split(":")[0] for line in wrong] == ["C7", "C7"]
    assert any(f"process {process.pid} is left" in line for line in wrong)
    assert any(".lock is still locked" in line for line in wrong)
