"""The contents of a stage store as a table and as plain data."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paretune.core.counts import counted
from paretune.reports.tables import Table

if TYPE_CHECKING:
    from paretune.storage.stage_store import StageStore, StoredStage


def store_text(store: StageStore) -> str:
    """Return the entries of a store as a table, the least recently used first."""
    stages = store.entries()
    if not stages:
        return f"nothing is stored in {store.shown}"
    now = time.time()
    rows = [
        (stage.key, _step(stage), f"{stage.bytes / 2**20:.1f}", _ago(now - stage.created), _ago(now - stage.used))
        for stage in stages
    ]
    head = ("key", "step", "MiB", "made", "used")
    table = Table("", head, tuple(rows), words=("step",), spare=("made", "MiB"))
    return f"{table.text()}\n{size_text(stages)} in {store.shown}"


def store_json(store: StageStore) -> dict[str, Any]:
    """Return the entries of a store as plain data, the least recently used first."""
    entries = [
        {
            "key": stage.key,
            "step": stage.facts.get("step"),
            "bytes": stage.bytes,
            "made": stage.created,
            "used": stage.used,
        }
        for stage in store.entries()
    ]
    return {"store": store.shown, "bytes": sum(entry["bytes"] for entry in entries), "entries": entries}


def size_text(stages: Sequence[StoredStage]) -> str:
    """Return number and size of entries, such as ``3 results, 12.5 MiB``."""
    size = sum(stage.bytes for stage in stages) / 2**20
    text = f"{size:.1f} MiB" if size < 1024 else f"{size / 1024:.1f} GiB"
    return f"{counted(len(stages), 'result')}, {text}"


def _step(stage: StoredStage) -> str:
    """Return the step that made an entry, with its fields that differ from nothing."""
    step = stage.facts.get("step")
    if not step:
        return "timing of a network" if "ratio" in stage.facts else "unknown"
    ((name, fields),) = step.items()
    shown = [f"{field} {value}" for field, value in fields.items() if value not in (None, False, 0)]
    return f"{name} ({', '.join(shown)})" if shown else str(name)


def _ago(seconds: float) -> str:
    """Return how long ago something was, such as ``5 min ago``."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return "just now"
