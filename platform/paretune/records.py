"""The records of a sweep's trials: one JSON file each, written once, never changed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from paretune.errors import UserError
from paretune.store import write_text

RECORD = "record.json"


@dataclass(frozen=True)
class Record:
    """What came of one trial."""

    number: int
    state: Literal["complete", "failed"]
    recipe: Mapping[str, Any]
    """Every field with its value."""
    params: Mapping[str, Any]
    """The recipe, flat: ``{"prune.ratio": 0.3}``."""
    metrics: Mapping[str, float]
    """Finite numbers; units are in the names."""
    reasons: Mapping[str, str]
    """Metric that is unknown → why."""
    notes: tuple[str, ...]
    failure: str | None
    artefact: str | None
    """The artefact's folder, relative to the sweep's."""
    origin: str
    """``baseline``, ``enqueued`` or ``sampled``."""
    started: float
    """Seconds since 1970."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage → seconds it took."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What really ran, read back: runtime, threads, precision, environment."""

    @classmethod
    def failed(
        cls, number: int, recipe: Mapping[str, Any], params: Mapping[str, Any], origin: str, failure: str, **more: Any
    ) -> Record:
        """Make the record of a trial that failed."""
        more.setdefault("started", time.time())
        return cls(
            number=number,
            state="failed",
            recipe=recipe,
            params=params,
            metrics={},
            reasons={},
            notes=(),
            failure=failure,
            artefact=None,
            origin=origin,
            **more,
        )

    @classmethod
    def complete(
        cls, number: int, recipe: Mapping[str, Any], params: Mapping[str, Any], origin: str, **result: Any
    ) -> Record:
        """Make the record of a trial that succeeded."""
        return cls(number, "complete", recipe, params, failure=None, origin=origin, **result)

    @property
    def finished(self) -> float:
        """Return when it ended, in seconds since 1970."""
        return self.started + sum(self.seconds.values())


def record_file(sweep_folder: Path, number: int) -> Path:
    """Return where the record of a trial lies."""
    return sweep_folder / "trials" / f"{number:04d}" / RECORD


def write_record(sweep_folder: Path, record: Record) -> None:
    """Write a record; one that is there already stays."""
    file = record_file(sweep_folder, record.number)
    if not file.exists():
        write_text(file, json.dumps(asdict(record), indent=1))


def read_record(sweep_folder: Path, number: int) -> Record | None:
    """Read the record of a trial; None if there is none yet.

    Raises:
        UserError: the file is damaged.
    """
    file = record_file(sweep_folder, number)
    if not file.exists():
        return None
    try:
        body = json.loads(file.read_text())
        return Record(**{**body, "notes": tuple(body["notes"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: damaged record ({error}); remove its folder to run the trial again") from error


def read_records(sweep_folder: Path) -> list[Record]:
    """Read all records of a sweep, by number.

    Raises:
        UserError: one of them is damaged; the file is named.
    """
    numbers = sorted(int(file.parent.name) for file in (sweep_folder / "trials").glob(f"[0-9]*/{RECORD}"))
    records = (read_record(sweep_folder, number) for number in numbers)
    return [record for record in records if record is not None]
