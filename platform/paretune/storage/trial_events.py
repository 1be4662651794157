"""The events of a trial, or of a sweep itself: one line of JSON each in ``events.jsonl``, appended while it runs.

A trial that was killed leaves at most one torn line, which readers skip.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

EVENTS = "events.jsonl"
PROGRESS = Path("work") / "progress.json"
"""File in a folder with events: how far the present stage is. It is overwritten, and removed at the end."""
PROGRESS_PAUSE = 1.0
"""Least seconds between two changes of that file."""
Kind = Literal["started", "begin", "end", "reused", "epoch", "metrics", "paused", "died", "stopped", "failed"]
"""started: a process begins the trial, or goes on with it; begin and end of a stage; reused: its result was taken from
the store; epoch: of a training; metrics: known from now on; paused: ended for now; died: its process ended without a
record; stopped and failed: how the trial ended."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a trial."""

    kind: Kind
    stage: str
    """Name of the stage, such as ``prune``."""
    time: float
    """Seconds since 1970."""
    key: str | None = None
    """Key of the stage's result; None for a stage whose result is not shared."""
    epoch: int | None = None
    """Number of the finished epoch, from 1."""
    epochs: int | None = None
    """Number of epochs of the training."""
    seconds: float | None = None
    """Wall time of the stage."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    reason: str | None = None
    """Why the trial was stopped, or failed."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The trial's recipe, when it started."""


Unit = Literal["epochs", "rounds", "images"]


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is."""

    stage: str
    done: float
    """Number of epochs, rounds of a measurement or images that are done; of epochs with a fraction."""
    of: float
    """Number of all of them."""
    unit: Unit
    time: float
    """Seconds since 1970."""


@dataclass
class EventLog:
    """Appends events to a trial's file.

    A file that cannot be written, as on a full disk, loses events and never fails the trial.
    """

    folder: Path
    """Folder of the trial."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    _noted: tuple[str, float] = field(default=("", 0.0), init=False)
    """Stage and time of the last change of the file with the progress."""

    def add(self, kind: Kind, stage: str, **fields: Any) -> Event:
        """Append an event and return it; metrics that are not finite are left out."""
        metrics = {name: value for name, value in fields.pop("metrics", {}).items() if math.isfinite(value)}
        event = Event(kind, stage, self.clock(), metrics=metrics, **fields)
        body = {name: value for name, value in asdict(event).items() if value not in (None, {})}
        line = (json.dumps(body) + "\n").encode()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError:
            pass
        return event

    def progress(self, stage: str, done: float, of: float, unit: Unit) -> None:
        """Note how far a stage is, where the last note is of another stage or older than `PROGRESS_PAUSE`."""
        now = self.clock()
        if stage == self._noted[0] and 0 <= now - self._noted[1] < PROGRESS_PAUSE:
            return
        self._noted = stage, now
        body = json.dumps(asdict(StageProgress(stage, done, of, unit, now))).encode()
        with suppress(OSError):
            file = self.folder / PROGRESS
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(handle, body.ljust(_LENGTH), 0)  # at once, so that no reader sees a part of it
            finally:
                os.close(handle)


_LENGTH = 512
"""Bytes of the file with the progress."""


def read_progress(folder: Path) -> StageProgress | None:
    """Return how far the present stage of a trial or sweep is; None if it has not said so."""
    try:
        return StageProgress(**json.loads((folder / PROGRESS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def read_events(folder: Path) -> list[Event]:
    """Return the events of a trial's folder, in their order; lines that are torn or unknown are skipped."""
    try:
        return _parsed((folder / EVENTS).read_bytes())
    except FileNotFoundError:
        return []


def _parsed(lines: bytes) -> list[Event]:
    events = []
    for line in lines.decode(errors="replace").splitlines():
        try:
            events.append(Event(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return events


class EventReader:
    """Reader of the events of all trials of a running sweep, which reads each byte once.

    Args:
        trials: folder of the trials' folders, each of which is named by the trial's number.
    """

    def __init__(self, trials: Path) -> None:
        self._trials = trials
        self._read: dict[str, int] = {}
        """Name of a trial's folder → bytes of its file that were read."""

    def new(self) -> dict[int, list[Event]]:
        """Return trial → events that were added since the last call, in their order.

        A line that is not whole yet is returned by a later call. All events of a file that became shorter are new: its
        trial was removed and begun again.
        """
        found = {}
        for name in sorted(os.listdir(self._trials)) if self._trials.is_dir() else ():  # noqa: PTH208 - names alone
            if name.isdecimal() and (events := self._appended(name)):
                found[int(name)] = events
        return found

    def _appended(self, name: str) -> list[Event]:
        """Return the events that were added to one file."""
        file, start = self._trials / name / EVENTS, self._read.get(name, 0)
        try:
            size = file.stat().st_size
            if size == start:
                return []
            with file.open("rb") as lines:
                lines.seek(start if size > start else 0)
                appended = lines.read()
        except FileNotFoundError:
            return []
        whole = appended.rfind(b"\n") + 1
        self._read[name] = whole + (start if size > start else 0)
        return _parsed(appended[:whole])
