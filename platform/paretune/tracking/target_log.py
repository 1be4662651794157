"""What the log of a sweep gets of one of its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.metrics import is_of_target
from paretune.search.pareto_front import FrontRules
from paretune.storage.trial_record import Record
from paretune.tracking.mlflow_client import ON_FRONT


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


def on_front_tag(target: str) -> str:
    """Return the tag of a trial's run that has whether the trial is on the front of a further target."""
    return f"{ON_FRONT}.{target}"


def on_fronts(tags: Mapping[str, str]) -> dict[str, bool]:
    """Return further target → whether the trial of a run with these tags is on its front."""
    start = on_front_tag("")
    return {tag.removeprefix(start): value == "true" for tag, value in tags.items() if tag.startswith(start)}


def named(metric: str, target: str | None) -> str:
    """Return the name of a metric in the log: those of a further target are below its name."""
    return metric if target is None else f"{target}/{metric}"


def target_values(metrics: Mapping[str, float], target: str) -> dict[str, float]:
    """Return the metrics of a record that differ between targets, by their names in the log."""
    return {named(name, target): value for name, value in metrics.items() if is_of_target(name)}
