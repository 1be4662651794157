"""The SQLite file of a study, which a thread keeps up to date while the study itself is in memory.

A trial costs Optuna some 15 statements of SQL, most of them with a commit of its own: dozens of milliseconds in which
nothing else could be scheduled.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.search.study_database import JOURNAL, StudyDatabase

if TYPE_CHECKING:
    import optuna

IDLE = 0.2
"""Seconds without a change before the thread writes."""
MOST_WAITING = 1000
"""Changed trials that are written at once, however soon the next change comes."""


NUMBER = "paretune.trial"
"""Attribute of a trial of the study: its number in the sweep."""


class StudyFile:
    """The trials of a study on disk.

    A killed process loses the changes of its last moments only. Of each proposed trial a line is appended to
    `JOURNAL` before it runs, from which `load_into` restores it; its result is in its record. So does a damaged
    database, which is set aside as ``.damaged``.

    Args:
        database: made if it does not exist.
        objectives: metric → direction; Optuna's own tools show the metrics by these names.

    Raises:
        UserError: the database on a server does not answer.
    """

    def __init__(self, database: StudyDatabase, objectives: Mapping[str, Literal["maximize", "minimize"]]) -> None:
        import optuna

        self._database, file, name = database, database.file, database.name
        self.damaged = database.url is None and _set_aside_if_damaged(file)
        """Whether the database was damaged, and is made again."""
        with database.answering():
            self._storage, self._on_disk = _opened(database, list(objectives.values()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._on_disk.set_metric_names(list(objectives))
        self._journal = file.with_name(JOURNAL)
        self._study_id: int = self._storage.get_study_id_from_name(name)
        self._ids: dict[int, int] = {}
        """Id in memory → id on disk."""
        self._changed: dict[int, None] = {}
        """Ids in memory of the trials to write, in the order of their first change."""
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._news, self._quiet = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._study: optuna.Study

    def load_into(self, study: optuna.Study) -> None:
        """Add the trials of the file to a study in memory, whose changes are written from then on.

        Trials that are in the journal only are restored: as they were proposed, without a result.
        """
        self._study = study
        for frozen in self._on_disk.get_trials(deepcopy=False):
            memory_id = study._storage.create_new_trial(study._study_id, template_trial=frozen)  # noqa: SLF001
            self._ids[memory_id] = frozen._trial_id  # noqa: SLF001
        known = {frozen.user_attrs.get(NUMBER) for frozen in study.get_trials(deepcopy=False)}
        for frozen in _journalled(self._journal):
            if frozen.user_attrs.get(NUMBER) not in known:
                known.add(frozen.user_attrs.get(NUMBER))
                self._restore(frozen)

    def _restore(self, frozen: optuna.trial.FrozenTrial) -> None:
        """Add a trial of the journal to the study in memory."""
        import optuna

        storage, study_id = self._study._storage, self._study._study_id  # noqa: SLF001
        known = self._study.get_trials(deepcopy=False)
        point = frozen.system_attrs.get(_POINT)
        waiting = (
            other._trial_id  # noqa: SLF001
            for other in known
            if other.state == optuna.trial.TrialState.WAITING and other.system_attrs.get(_POINT) == point
        )
        trial_id = next(waiting, None)
        if trial_id is None:
            self.changed(storage.create_new_trial(study_id, template_trial=frozen))
            return
        storage.set_trial_state_values(trial_id, optuna.trial.TrialState.RUNNING)  # it was enqueued, and is begun
        for name, kind in frozen.distributions.items():
            storage.set_trial_param(trial_id, name, kind.to_internal_repr(frozen.params[name]), kind)
        for name, value in frozen.user_attrs.items():
            storage.set_trial_user_attr(trial_id, name, value)
        self.changed(trial_id)

    def proposed(self, trial_id: int) -> None:
        """Note a trial that is about to run in the journal, and have it written to the database soon.

        A full disk loses the line and no more: the database is written later.
        """
        frozen = self._study._storage.get_trial(trial_id)  # noqa: SLF001
        with suppress(OSError):
            handle = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(handle, _line(frozen))
            finally:
                os.close(handle)
        self.changed(trial_id)

    def changed(self, trial_id: int) -> None:
        """Have a trial written soon."""
        with self._lock:
            self._changed[trial_id] = None
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_when_idle, name="study file", daemon=True)
            self._thread.start()
        self._news.set()

    def save(self) -> None:
        """Write what is not on disk yet."""
        with self._writing:
            while True:
                with self._lock:
                    trial_id = next(iter(self._changed), None)
                    if trial_id is None:
                        return
                    del self._changed[trial_id]
                try:
                    self._write(self._study._storage.get_trial(trial_id))  # noqa: SLF001
                except BaseException:
                    with self._lock:
                        self._changed = {trial_id: None, **self._changed}
                    raise

    def close(self) -> None:
        """Write what is not on disk yet, and close the file.

        Raises:
            UserError: a server does not answer; what it lacks is written when the sweep is resumed.
        """
        self._quiet.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join()
        with self._database.answering():
            self.save()
            self._storage.engine.dispose()

    def _write_when_idle(self) -> None:
        """Write until the file is closed; what cannot be written is tried again with the next change."""
        while not self._quiet.is_set():
            self._news.wait()
            self._news.clear()
            if self._quiet.wait(IDLE):
                return
            if not self._news.is_set() or len(self._changed) >= MOST_WAITING:
                try:
                    self.save()
                except Exception:  # noqa: BLE001, S112 - close() tries again and raises
                    continue

    def _write(self, frozen: optuna.trial.FrozenTrial) -> None:
        """Write a trial as it is now."""
        memory_id = frozen._trial_id  # noqa: SLF001
        on_disk = self._ids.get(memory_id)
        if on_disk is None:
            self._ids[memory_id] = self._storage.create_new_trial(self._study_id, template_trial=frozen)
            return
        before = self._storage.get_trial(on_disk)
        if before.state.is_finished():
            return
        if before.state != frozen.state and not frozen.state.is_finished():
            self._storage.set_trial_state_values(on_disk, frozen.state)
        for name in frozen.params.keys() - before.params.keys():
            kind = frozen.distributions[name]
            self._storage.set_trial_param(on_disk, name, kind.to_internal_repr(frozen.params[name]), kind)
        for name, value in _new(frozen.user_attrs, before.user_attrs).items():
            self._storage.set_trial_user_attr(on_disk, name, value)
        for name, value in _new(frozen.system_attrs, before.system_attrs).items():
            self._storage.set_trial_system_attr(on_disk, name, value)
        if frozen.state.is_finished():
            self._storage.set_trial_state_values(on_disk, frozen.state, frozen.values)


_POINT = "fixed_params"
"""Optuna's attribute of an enqueued trial: its parameters."""


def _line(frozen: optuna.trial.FrozenTrial) -> bytes:
    """Return a trial as a line of the journal; it begins with a line break, as the line before may be torn."""
    import optuna

    kinds = frozen.distributions.items()
    body = {
        "params": {name: kind.to_internal_repr(frozen.params[name]) for name, kind in kinds},
        "distributions": {name: optuna.distributions.distribution_to_json(kind) for name, kind in kinds},
        "user": frozen.user_attrs,
        "system": {name: value for name, value in frozen.system_attrs.items() if name == _POINT},
    }
    return f"\n{json.dumps(body)}\n".encode()


def _journalled(file: Path) -> Iterator[optuna.trial.FrozenTrial]:
    """Yield the trials of a journal, without lines that are torn."""
    import optuna

    lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    for line in filter(None, lines):
        try:
            body = json.loads(line)
            kinds = {
                name: optuna.distributions.json_to_distribution(text) for name, text in body["distributions"].items()
            }
            yield optuna.trial.create_trial(
                state=optuna.trial.TrialState.RUNNING,
                params={name: kind.to_external_repr(body["params"][name]) for name, kind in kinds.items()},
                distributions=kinds,
                user_attrs=body["user"],
                system_attrs=body["system"],
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def _set_aside_if_damaged(file: Path) -> bool:
    """Return whether a file is no whole database of SQLite; it is renamed then."""
    if not file.exists():
        return False
    try:
        with closing(sqlite3.connect(file)) as database:
            found = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
    except sqlite3.OperationalError:
        raise  # locked, or no permission: it may be whole
    except sqlite3.DatabaseError as error:
        found = str(error)
    if found == "ok":
        return False
    for name in (file.name, f"{file.name}-wal", f"{file.name}-shm"):
        with suppress(FileNotFoundError):
            file.with_name(name).replace(file.with_name(f"{name}.damaged"))
    return True


def _opened(database: StudyDatabase, directions: Sequence[Literal["maximize", "minimize"]]) -> tuple[Any, optuna.Study]:
    """Return Optuna's storage of a database, and the study in it, which is made if it is not there."""
    import optuna
    from sqlalchemy import event

    storage, name = database.storage(), database.name
    if database.url is None:
        event.listen(storage.engine, "connect", _commit_without_waiting)
        storage.engine.dispose()
    study = optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)
    return storage, study


def _new(after: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that differ."""
    return {name: value for name, value in after.items() if name not in before or before[name] != value}


def _commit_without_waiting(connection: Any, _record: Any) -> None:
    """Let SQLite's commits not wait for the disk; a power cut then loses the newest of them, and damages nothing.

    A file system that cannot share memory between processes keeps SQLite's own mode, which waits.
    """
    mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode.lower() == "wal":
        connection.execute("PRAGMA synchronous=NORMAL")


def points_in(database: StudyDatabase) -> dict[int, dict[str, Any]]:
    """Return trial number → parameters, for the trials of a study; empty if it was not begun.

    Raises:
        UserError: a database on a server does not answer.
    """
    return {trial.user_attrs[NUMBER]: dict(trial.params) for trial in database.trials() if NUMBER in trial.user_attrs}
