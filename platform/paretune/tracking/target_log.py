"""What the log of a sweep gets of one of its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.metrics import is_of_target
from paretune.search.pareto_front import FrontRules
from paretune.storage.trial_record import Record


@dataclass(frozen=True)
class TargetLog:
    """Records and front of a sweep as one target has them."""

    target: str | None
    """Name of a further target; None for the first, whose metrics have their own names."""
    records: Sequence[Record]
    front: Mapping[str, Any]
    judge: FrontRules
    files: Sequence[Path]
    """Pictures and tables of the front."""


def named(metric: str, target: str | None) -> str:
    """Return the name of a metric in the log: those of a further target are below its name."""
    return metric if target is None else f"{target}/{metric}"


def target_values(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics of a record that differ between targets."""
    return {name: value for name, value in metrics.items() if is_of_target(name)}
