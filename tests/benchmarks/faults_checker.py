"""What must hold of a sweep after any fault, read from its files with nothing but Python's own library.

C1 no trial lost; C2 none twice: record, study and log are one to one; C3 complete trials have finite figures and whole
artefacts; C4 the front is the one recomputed from the records; C5 one value for each metric, step and time in the log;
C6 nothing is still running; C7 no process, lock or temporary file is left; C8 the space is as it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from faults_left import processes
from faults_sweep import DROP, NAME, SPACE, Place

STATES = {"complete": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}
LOGGED = {"map": "accuracy/map", "latency_ms": "latency/ms", "size_mib": "model/size_mib"}
"""Metric in a record → its name in the log."""
TEMPORARY = ("*.part", "*.partial", ".ray-session", "*.claim", "*-journal", "work")


def records_of(sweep: Path) -> dict[int, dict[str, Any]]:
    """Return the records of a sweep that can be read, by number."""
    found = {}
    for file in sorted((sweep / "trials").glob("*/record.json")):
        try:
            body = json.loads(file.read_text())
            found[int(body["number"])] = body
        except (ValueError, KeyError, TypeError):
            continue
    return found


def recorded(place: Place) -> dict[str, bytes]:
    """Return the bytes of every record, by folder."""
    return {file.parent.name: file.read_bytes() for file in place.sweep.glob("trials/*/record.json")}


def check(
    place: Place,
    *,
    trials: int | None = 6,
    seen: dict[str, bytes] | None = None,
    log: bool = True,
    failed: tuple[int, ...] = (),
    space: str = SPACE,
    store: bool = True,
    others: tuple[str, ...] = (),
) -> list[str]:
    """Return what is wrong with a sweep that was resumed to its end; empty if nothing is.

    Args:
        place: of the sweep.
        trials: number that there must be; None for any.
        seen: records that were there before the fault.
        log: whether the log must be complete.
        failed: trials that may have failed.
        space: text that the space must have.
        store: whether every entry of the stage store must be whole.
        others: names of further sweeps in the log.
    """
    if not (place.sweep / "sweep.json").exists():
        return [*_left(place), "C1: the sweep's folder is gone"]
    records = records_of(place.sweep)
    wrong = _lost(place, records, trials, seen or {}, failed)
    wrong += _whole(place, records, store=store)
    wrong += _study(place.sweep / "study.db", records)
    front = brute_force(records)
    wrong += _front(place.sweep / "front" / "front.json", front)
    if log:
        wrong += _log(place, records, front, others)
    wrong += _left(place)
    if (place.sweep / "space.yaml").read_text() != space:
        wrong.append("C8: the space has changed")
    return wrong


def _lost(
    place: Place,
    records: dict[int, dict[str, Any]],
    trials: int | None,
    seen: dict[str, bytes],
    failed: tuple[int, ...],
) -> list[str]:
    wrong = []
    names = sorted(path.parent.name for path in place.sweep.glob("trials/*/record.json"))
    if trials is not None and names != [f"{number:04d}" for number in range(trials)]:
        wrong.append(f"C1: records {', '.join(names) or 'none'}, and {trials} are expected")
    if sorted(f"{number:04d}" for number in records) != names:
        wrong.append("C1: a record cannot be read, or is another trial's")
    now = recorded(place)
    wrong += [f"C1: the record of trial {name} has changed" for name in seen if now.get(name) != seen[name]]
    recipes = Counter(json.dumps(record["recipe"], sort_keys=True) for record in records.values())
    wrong += [f"C2: {count} trials have the recipe {recipe}" for recipe, count in recipes.items() if count > 1]
    bad = [number for number, record in records.items() if record["state"] == "failed" and number not in failed]
    wrong += [f"C1: trial {number} failed: {records[number]['failure']}" for number in bad]
    if not (place.sweep / "finished").exists():
        wrong.append("C6: the sweep is not finished")
    return wrong


def _whole(place: Place, records: dict[int, dict[str, Any]], *, store: bool) -> list[str]:
    wrong = []
    for number, record in records.items():
        if record["state"] != "complete":
            continue
        if odd := [name for name, value in record["metrics"].items() if not math.isfinite(value)]:
            wrong.append(f"C3: trial {number}: not finite: {', '.join(odd)}")
        wrong += [f"C3: trial {number}: no {name}" for name in ("map", "latency_ms") if name not in record["metrics"]]
        wrong += damaged(place.sweep / record["artefact"], f"trial {number}")
    for index in (place.runs / "store").glob("??/*/stage.json") if store else ():
        body = json.loads(index.read_text())
        for name, facts in body["files"].items():
            file = index.parent / body["folder"] / name
            if not file.is_file() or _sha256(file) != facts["sha256"]:
                wrong.append(f"C3: the store's entry {index.parent.name} is damaged")
    return wrong


def damaged(folder: Path, what: str) -> list[str]:
    """Return what of an artefact is not as its manifest lists it."""
    try:
        files = json.loads((folder / "artefact.json").read_text())["files"]
    except (OSError, ValueError, KeyError) as error:
        return [f"C3: {what}: no readable manifest ({error})"]
    bad = [name for name, facts in files.items() if _sha256(folder / name) != facts["sha256"]]
    return [f"C3: {what}: {name} is damaged" for name in bad]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"


def _rows(file: Path, query: str, *given: Any) -> list[Any]:
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
        return database.execute(query, given).fetchall()


def _integrity(file: Path) -> list[str]:
    """Return an error unless SQLite finds a database whole."""
    try:
        told = _rows(file, "PRAGMA integrity_check")[0][0]
    except sqlite3.Error as error:
        told = str(error)
    return [] if told == "ok" else [f"C2: {file.name}: {told}"]


def _study(file: Path, records: dict[int, dict[str, Any]]) -> list[str]:
    if wrong := _integrity(file):
        return wrong
    rows = _rows(
        file,
        "SELECT t.trial_id, t.state, a.value_json FROM trials t LEFT JOIN trial_user_attributes a"
        " ON a.trial_id = t.trial_id AND a.key = 'paretune.trial'",
    )
    values: dict[int, dict[int, float]] = {}
    for trial, objective, value in _rows(file, "SELECT trial_id, objective, value FROM trial_values"):
        values.setdefault(trial, {})[objective] = value
    known = Counter(int(number) for _, _, number in rows if number is not None)
    searched = {number for number, record in records.items() if record["origin"] != "baseline"}
    wrong += [f"C2: the study does not know trial {number}" for number in sorted(searched - set(known))]
    wrong += [f"C2: the study knows trial {number}, which has no record" for number in sorted(set(known) - searched)]
    wrong += [f"C2: the study has trial {number} {count} times" for number, count in known.items() if count > 1]
    for trial, state, text in rows:
        record = None if text is None else records.get(int(text))
        if state == "RUNNING":
            wrong.append(f"C6: the study says that its row {trial} (trial {text}) is running")
        elif record is not None and (state == "COMPLETE") != (record["state"] == "complete"):
            wrong.append(f"C2: trial {text} is {record['state']}, and {state} in the study")
        elif record is not None and state == "COMPLETE":
            right = {0: record["metrics"]["map"], 1: record["metrics"]["latency_ms"]}
            if any(not math.isclose(values[trial][n], value, rel_tol=0.02) for n, value in right.items()):
                wrong.append(f"C2: the study has other values of trial {text}")
    return wrong


def brute_force(records: dict[int, dict[str, Any]]) -> set[int]:
    """Return the trials on the front, each pair of them compared.

    A latency is the trial's ratio to its reference's, times those of the references before.
    """

    def latency(number: int) -> float:
        duet = records[number]["facts"]["duet"]
        return float(duet["ratio"]) * (1.0 if duet["reference"] == number else latency(duet["reference"]))

    complete = [n for n, record in records.items() if record["state"] == "complete" and "map" in record["metrics"]]
    if 0 not in complete:
        return set()
    floor = records[0]["metrics"]["map"] - DROP
    try:
        points = {n: (records[n]["metrics"]["map"], latency(n)) for n in complete}
    except KeyError:  # a record is lost, which was found
        return set()
    points = {number: point for number, point in points.items() if point[0] >= floor}
    return {
        number
        for number, (quality, cost) in points.items()
        if not any(q >= quality and c <= cost and (q, c) != (quality, cost) for q, c in points.values())
    }


def _front(file: Path, right: set[int]) -> list[str]:
    try:
        front = json.loads(file.read_text())["front"]
    except (OSError, ValueError, KeyError) as error:
        return [f"C4: no readable front ({error})"]
    drawn = sorted(point["trial"] for point in front)
    return [] if drawn == sorted(right) else [f"C4: the front is {drawn}, and recomputed {sorted(right)}"]


def _log(place: Place, records: dict[int, dict[str, Any]], front: set[int], others: tuple[str, ...]) -> list[str]:
    """Compare the log with the records."""
    file, made = place.runs / "mlflow.db", json.loads((place.sweep / "sweep.json").read_text())["created"]
    if wrong := _integrity(file):
        return wrong
    tags: dict[str, dict[str, str]] = {}
    for run, key, value in _rows(file, "SELECT run_uuid, key, value FROM tags"):
        tags.setdefault(run, {})[key] = value
    runs = _rows(file, "SELECT run_uuid, status, start_time FROM runs WHERE lifecycle_stage = 'active'")
    whose = {run: tags.get(run, {}).get("paretune.sweep") for run, _, _ in runs}
    wrong += [
        f"C2: a run in the log is no trial's: {run}" for run, name in whose.items() if name not in (NAME, *others)
    ]
    began = {run: start for run, _, start in runs}
    families = {tag.get("mlflow.parentRunId") for tag in tags.values()}
    empty = {  # of a sweep of the same name that ended before its first trial, and was removed
        run
        for run, name in whose.items()
        if name == NAME and tags[run].get("paretune.trial") == "all" and run not in families
        if began[run] != int(made * 1000)
    }
    ours = [(run, status) for run, status, _ in runs if whose[run] == NAME and run not in empty]
    parents = [(run, status) for run, status in ours if tags[run].get("paretune.trial") == "all"]
    if len(parents) != 1:
        return [*wrong, f"C2: the log has {len(parents)} runs for the sweep"]
    ((parent, ended),) = parents
    if ended != "FINISHED":
        wrong.append(f"C6: the sweep's run in the log is {ended}")
    children = {run: status for run, status in ours if run != parent}
    numbers = Counter(int(tags[run]["paretune.trial"]) for run in children)
    if numbers != Counter(dict.fromkeys(records, 1)):
        wrong.append(f"C2: the log has runs of the trials {sorted(numbers.elements())}")
    for run, status in children.items():
        number = int(tags[run]["paretune.trial"])
        if number not in records:
            continue
        wrong += _run(file, run, status, tags[run], records[number], on_front=number in front)
    steps = _rows(
        file,
        "SELECT step, count(*) FROM metrics WHERE key=? AND run_uuid=? GROUP BY step",
        "trials/done",
        parent,
    )
    if dict(steps) != dict.fromkeys(range(1, len(records) + 1), 1):
        wrong.append(f"C5: steps in the log: {steps}")
    twice = _rows(file, "SELECT run_uuid, key, step, timestamp FROM metrics GROUP BY 1, 2, 3, 4 HAVING count(*) > 1")
    wrong += [f"C5: {key} of {tags[run].get('paretune.trial')} twice at step {step}" for run, key, step, _ in twice]
    return wrong


def _run(
    file: Path, run: str, status: str, tags: dict[str, str], record: dict[str, Any], *, on_front: bool
) -> list[str]:
    """Compare the run of a trial with its record."""
    number, wrong = record["number"], []
    if status != STATES[record["state"]]:
        wrong.append(f"C2: trial {number} is {record['state']}, and {status} in the log")
    if (tags.get("paretune.front") == "true") != on_front:
        wrong.append(f"C4: trial {number} is {'' if on_front else 'not '}on the front, and the log says otherwise")
    if tags.get("mlflow.parentRunId") is None:
        wrong.append(f"C2: the run of trial {number} has no parent")
    logged = dict(_rows(file, "SELECT key, value FROM latest_metrics WHERE run_uuid = ?", run))
    for name, key in LOGGED.items() if record["state"] == "complete" else ():
        now, there = record["metrics"].get(name, math.nan), logged.get(key, math.nan)
        wrong += (
            [] if math.isclose(there, now, rel_tol=0.02) else [f"C2: {name} of trial {number}: {now}, logged {there}"]
        )
    ((where,),) = _rows(file, "SELECT artifact_uri FROM runs WHERE run_uuid = ?", run)
    if record["artefact"] is not None and where.startswith("file:"):
        wrong += damaged(Path(where.removeprefix("file://")) / "artefact", f"trial {number} in the log")
    return wrong


def _left(place: Place) -> list[str]:
    """Return what is left: processes, locks, temporary files and folders."""
    wrong = [f"C7: process {pid} is left: {text}" for pid, text in processes(place).items()]
    locks = [place.sweep / ".lock", *place.locks.glob("*"), *(place.runs / "store" / "locks").glob("*")]
    wrong += [f"C7: {lock.name} is still locked" for lock in locks if lock.is_file() and not _free(lock)]
    for pattern in TEMPORARY:
        wrong += [f"C7: {path.relative_to(place.folder)} is left" for path in place.runs.rglob(pattern)]
    for folder in (place.runs / "store").glob("??/*/*"):
        index = folder.parent / "stage.json"
        if folder.is_dir() and (not index.is_file() or json.loads(index.read_text())["folder"] != folder.name):
            wrong.append(f"C7: {folder.relative_to(place.folder)} belongs to no entry of the store")
    return wrong


def _free(lock: Path) -> bool:
    with lock.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
