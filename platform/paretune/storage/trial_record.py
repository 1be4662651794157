"""The records of a sweep's trials: one JSON file each, written once, never changed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.core.errors import UserError
from paretune.storage.atomic_files import write_text

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

RECORD = "record.json"
SEAL = "sha256"
"""Key of the hash of a record's other entries."""
RUNTIME_UNAVAILABLE = "unfit_runtime"
"""Fact of a failed trial: the target cannot run its runtime, whatever the steps are."""
STOPPED = "stopped"
"""Fact of a stopped trial: ``{"reason", "stage", "metrics"}``; the metrics are those known by then."""
EXPECTED = "expected_"
"""Prefix of the name of a metric that is expected at the end of a training."""
STAGES = "stages"
"""Fact of a trial: its finished stages in order, each with name, key, seconds, CPU seconds, and whether its result was
reused."""
KEPT = "kept"
"""Fact of a failed trial: folder, relative to the sweep's, of the artefact or network that it made before."""
RUNTIME_INSTALLED_SINCE = "runtime_installed_since"
"""Fact of a failed trial: its runtime has been installed since, so its recipe may be tried again."""


@dataclass(frozen=True)
class Record:
    """The result of one trial."""

    number: int
    state: Literal["complete", "failed", "stopped"]
    """stopped: ended early by a decision; the metrics that were known by then are in ``facts``."""
    recipe: Mapping[str, Any]
    """Every field with its value."""
    params: Mapping[str, Any]
    """The recipe, flat: ``{"prune.ratio": 0.3}``."""
    metrics: Mapping[str, float]
    """Finite numbers; units are in the names."""
    reasons: Mapping[str, str]
    """Unknown metric → reason."""
    notes: tuple[str, ...]
    failure: str | None
    artefact: str | None
    """The artefact's folder, relative to the sweep's."""
    origin: str
    """``baseline``, ``enqueued``, ``earlier`` for a recipe of an earlier sweep's front, ``sampled``, or ``sibling`` for
    another trial's network on another runtime."""
    started: float
    """Seconds since 1970."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds it took."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the measurement, such as runtime, threads, precision and environment."""
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Target → its own ``metrics``, ``reasons`` and ``facts``, for every target of a sweep that has several; the fields
    above hold those of the first one."""

    @property
    def runtime_unavailable(self) -> bool:
        """Return whether the target cannot run the recipe's runtime."""
        return bool(self.facts.get(RUNTIME_UNAVAILABLE))

    @property
    def runtime_installed_since(self) -> bool:
        """Return whether the runtime that was missing has been installed since."""
        return bool(self.facts.get(RUNTIME_INSTALLED_SINCE))

    def __post_init__(self) -> None:
        """Check state and metrics.

        Raises:
            ValueError: an unknown state, or a metric that is no finite number.
        """
        if self.state not in ("complete", "failed", "stopped"):
            raise ValueError(f"state {self.state!r}: 'complete', 'failed' or 'stopped' is expected")
        wrong = [name for name, value in self.metrics.items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(f"not finite: {', '.join(wrong)}; unknown metrics are left out and have a reason")

    @classmethod
    def failed(
        cls, number: int, recipe: Mapping[str, Any], params: Mapping[str, Any], origin: str, failure: str, **more: Any
    ) -> Record:
        """Return the record of a failed trial."""
        more.setdefault("started", time.time())
        more = {"metrics": {}, "reasons": {}, "notes": (), "artefact": None, **more}
        return cls(number, "failed", recipe, params, failure=failure, origin=origin, **more)

    @classmethod
    def complete(
        cls, number: int, recipe: Mapping[str, Any], params: Mapping[str, Any], origin: str, **result: Any
    ) -> Record:
        """Return the record of a complete trial; a metric that is not finite becomes unknown, with a reason."""
        given = result["metrics"]
        odd = {name: f"the measurement gave {value}" for name, value in given.items() if not math.isfinite(value)}
        result["metrics"] = {name: value for name, value in given.items() if name not in odd}
        result["reasons"] = {**odd, **result["reasons"]}
        return cls(number, "complete", recipe, params, failure=None, origin=origin, **result)

    @classmethod
    def stopped(
        cls,
        number: int,
        recipe: Mapping[str, Any],
        params: Mapping[str, Any],
        origin: str,
        reason: str,
        *,
        stage: str,
        metrics: Mapping[str, float],
        facts: Mapping[str, Any],
        **more: Any,
    ) -> Record:
        """Return the record of a trial that ended early by a decision.

        Args:
            number: of the trial.
            recipe: every field with its value.
            params: the recipe, flat.
            origin: source of the recipe.
            reason: for the decision.
            stage: after which it was made.
            metrics: known by then.
            facts: further facts of the record.
            more: further fields of the record.
        """
        known = {"reason": reason, "stage": stage, "metrics": dict(metrics)}
        more |= {"notes": (f"stopped after {stage}: {reason}",), "facts": {**facts, STOPPED: known}}
        ended = cls.failed(number, recipe, params, origin, reason, **more)
        return replace(ended, state="stopped", failure=None)

    @property
    def stop_reason(self) -> str | None:
        """Return why a stopped trial ended early; None for the others."""
        return None if self.state != "stopped" else str(self.facts[STOPPED]["reason"])

    @property
    def expected(self) -> dict[str, float]:
        """Return the metrics that were expected of a stopped trial at the end of its training; empty for the others."""
        known = self.facts[STOPPED]["metrics"] if self.state == "stopped" else {}
        return {
            name.removeprefix(EXPECTED): value
            for name, value in known.items()
            if name.startswith(EXPECTED) and math.isfinite(value)
        }

    @property
    def finished(self) -> float:
        """Return the end of the trial, in seconds since 1970."""
        return self.started + sum(self.seconds.values())


def trial_folder(sweep_folder: Path, number: int) -> Path:
    """Return the folder of a trial."""
    return sweep_folder / "trials" / f"{number:04d}"


def record_file(sweep_folder: Path, number: int) -> Path:
    """Return the file of a trial's record."""
    return trial_folder(sweep_folder, number) / RECORD


def recorded_trials(sweep_folder: Path) -> list[Path]:
    """Return the files of all records of a sweep."""
    return list(trial_folder(sweep_folder, 0).parent.glob(f"*/{RECORD}"))


def write_record(sweep_folder: Path, record: Record) -> None:
    """Write a record unless the trial has one; it is on the disk then, or at the end of ``written_beside``."""
    file, beside = record_file(sweep_folder, record.number), _beside.get()
    if file.exists():
        return
    body = json.loads(json.dumps(asdict(record)))  # as it is read: with text for keys
    if not record.targets:
        del body["targets"]  # as before there were several
    text = json.dumps({**body, SEAL: _seal(body)}, indent=1)
    if beside is None:
        write_text(file, text)
    else:
        beside.append(_writers().submit(write_text, file, text))


def _seal(body: Mapping[str, Any]) -> str:
    """Return the hash of a record's fields, independent of order and spaces."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@contextmanager
def written_beside() -> Iterator[None]:
    """Let ``write_record`` return at once within the block; at its end the records are on the disk.

    Raises:
        OSError: a record cannot be written.
    """
    writing: list[Future[None]] = []
    token = _beside.set(writing)
    try:
        yield
    finally:
        _beside.reset(token)
        for one in writing:
            one.result()


_beside: ContextVar[list[Future[None]] | None] = ContextVar("beside", default=None)
"""Records that are being written; None outside of ``written_beside``."""


@cache
def _writers() -> Executor:
    """Return the thread that writes records beside other work."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, thread_name_prefix="record")


def forget_record(sweep_folder: Path, number: int) -> None:
    """Remove a trial's folder with its record, so that it is run again."""
    shutil.rmtree(trial_folder(sweep_folder, number))


def read_record(sweep_folder: Path, number: int) -> Record | None:
    """Return the record of a trial; None if there is none yet.

    A file is parsed again only if it has changed since this process read it.

    Raises:
        UserError: the file is damaged.
    """
    file = record_file(sweep_folder, number)
    try:
        stat = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
    known = _parsed.get(str(file))
    if known is None or known[0] != version:
        known = _parsed[str(file)] = (version, _parse(file, number))
    return known[1]


_parsed: dict[str, tuple[tuple[int, ...], Record]] = {}
"""File → (inode, time and size of the version that was read, its record)."""


def _parse(file: Path, number: int) -> Record:
    try:
        body = json.loads(file.read_text())
        seal = body.pop(SEAL, None)  # older versions wrote none
        record = Record(**{**body, "notes": tuple(body["notes"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{file}: damaged record ({error}); remove its folder to run the trial again") from error
    if seal not in (None, _seal(body)):
        raise UserError(f"{file}: damaged record (another {SEAL}); remove its folder to run the trial again")
    if record.number != number:
        raise UserError(f"{file}: the record of trial {record.number}; remove its folder to run trial {number} again")
    return record


def read_records(sweep_folder: Path) -> list[Record]:
    """Return all records of a sweep, sorted by number.

    Raises:
        UserError: a record is damaged or in a folder without a trial's name.
    """
    return sorted(RecordReader(sweep_folder).new(), key=lambda record: record.number)


class RecordReader:
    """Reader of the records of a running sweep, each of which it reads once: a record never changes.

    Args:
        sweep_folder: folder of the sweep.
    """

    def __init__(self, sweep_folder: Path) -> None:
        self._folder = sweep_folder
        self._seen: set[str] = set()

    def new(self) -> list[Record]:
        """Return the records that were not there at the last call.

        Raises:
            UserError: a record is damaged or in a folder without a trial's name.
        """
        try:
            names = os.listdir(trial_folder(self._folder, 0).parent)  # noqa: PTH208 - names alone are quicker
        except FileNotFoundError:
            return []
        records = []
        for name in names:
            if name in self._seen:
                continue
            number = int(name) if name.isdecimal() else -1
            if number < 0 or trial_folder(self._folder, number).name != name:
                file = trial_folder(self._folder, 0).with_name(name) / RECORD
                if file.exists():
                    raise UserError(f"{file}: in a folder that is no trial's (0003 would be one); move it elsewhere")
                continue
            if (record := read_record(self._folder, number)) is not None:
                self._seen.add(name)
                records.append(record)
        return records
