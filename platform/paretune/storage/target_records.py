"""The records of a sweep with several targets, as each target has them.

A record on disk holds the figures of the first target in its own fields, as that of a sweep with one target, and those
of every target in ``targets``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from paretune.core.metrics import METRICS, is_of_target
from paretune.storage.trial_record import EXPECTED, STOPPED, Record


@dataclass(frozen=True)
class TargetFigures:
    """The figures of a version that were measured on one target."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    """Unknown metric → reason."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def unknown(cls, reason: str) -> TargetFigures:
        """Return the figures of a target that cannot run the version, or on which measuring it failed."""
        return cls(reasons={name: reason for name, row in METRICS.items() if row.printed and is_of_target(name)})

    def checked(self) -> TargetFigures:
        """Return the figures with a reason in place of each number that is not finite."""
        odd = {name: value for name, value in self.metrics.items() if not math.isfinite(value)}
        metrics = {name: value for name, value in self.metrics.items() if name not in odd}
        reasons = {**{name: f"the measurement gave {value}" for name, value in odd.items()}, **self.reasons}
        return replace(self, metrics=metrics, reasons=reasons)

    def tree(self) -> dict[str, Any]:
        """Return metrics, reasons and facts as plain data."""
        return {"metrics": dict(self.metrics), "reasons": dict(self.reasons), "facts": dict(self.facts)}


def at_target(metric: str, target: str) -> str:
    """Return the name of a metric of a further target where those of several targets are side by side."""
    return f"{metric}@{target}"


def on_target(record: Record, target: str | None) -> Record:
    """Return a record as one target has it.

    Args:
        record: as read from disk.
        target: a further target of the sweep; None for the first one.
    """
    if target is None:
        return record
    if record.state == "stopped":
        return _stopped_on(record, target)
    if record.state == "failed":
        return record
    first: Mapping[str, Mapping[str, Any]] = next(iter(record.targets.values()), {})
    own = record.targets.get(target) or TargetFigures.unknown(f"it was not measured on {target}").tree()
    parts = {"metrics": record.metrics, "reasons": record.reasons, "facts": record.facts}
    changed: dict[str, Any] = {
        part: {
            **{name: value for name, value in flat.items() if name not in first.get(part, ()) and _is_shared(name)},
            **own[part],
        }
        for part, flat in parts.items()
    }
    return replace(record, **changed)


def _is_shared(name: str) -> bool:
    """Return whether a metric or a fact of a record's own fields is that of all targets."""
    return not is_of_target(name) and name != "duet"


def _stopped_on(record: Record, target: str) -> Record:
    """Return a stopped record with what was expected of it on a target."""
    stopped = record.facts[STOPPED]
    known, end = stopped["metrics"], at_target("", target)
    shared = {name: value for name, value in known.items() if not is_of_target(name.removeprefix(EXPECTED))}
    own = {name.removesuffix(end): value for name, value in known.items() if name.endswith(end)}
    return replace(record, facts={**record.facts, STOPPED: {**stopped, "metrics": {**shared, **own}}})


def side_by_side(record: Record, targets: Sequence[str], metrics: Sequence[str]) -> Record:
    """Return a complete record whose metrics hold those of further targets by their names (`at_target`), too.

    Args:
        record: as read from disk.
        targets: further targets.
        metrics: to add of each, with the ends of their intervals (``latency_ms@two_low``).
    """
    if record.state != "complete" or not targets:
        return record
    views = {target: on_target(record, target).metrics for target in targets}
    added = {
        f"{at_target(metric, target)}{end}": view[f"{metric}{end}"]
        for target, view in views.items()
        for metric in metrics
        for end in ("", "_low", "_high")
        if f"{metric}{end}" in view
    }
    return replace(record, metrics={**record.metrics, **added})
