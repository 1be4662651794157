"""What the run of a trial holds in MLflow: params, metrics, tags and curves, from its record and events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from paretune.core.recipe_text import main_settings, recipe_line
from paretune.search.latency_scale import SCALED
from paretune.storage.trial_events import Event
from paretune.storage.trial_record import Record
from paretune.tracking.mlflow_client import NOTE
from paretune.tracking.sweep_note import plain

FAILURE, STOPPED, QUALITY = "paretune.failure", "paretune.stopped", "paretune.quality"
STATUS = {"complete": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
"""State of a trial → status of its run."""
ON_SCALE = frozenset(f"{metric}{end}" for metric in SCALED for end in ("", "_low", "_high"))
"""Metrics that a comparison of the front may change."""


def params_of(record: Record) -> dict[str, Any]:
    """Return the params of a trial: the few that people compare first, and the recipe in the words of its fields."""
    return {**main_settings(record.recipe, record.facts), **record.params}


def metrics_of(record: Record, name: Callable[[str], str]) -> dict[str, float]:
    """Return the metrics of a trial and the seconds of its stages.

    Args:
        record: of the trial.
        name: returns a metric's name in the log.
    """
    seconds = {f"seconds_{stage}": value for stage, value in record.seconds.items()}
    return {name(metric): value for metric, value in {**record.metrics, **seconds}.items()}


def compared_metrics(record: Record, comparison: Mapping[str, Any], *, tested: bool) -> dict[str, float]:
    """Return the metrics of a trial that the comparison of the front decides.

    Args:
        record: of the trial, on the comparison's scale.
        comparison: result of ``compare_front``.
        tested: whether the accuracy on the split ``test`` is among them.
    """
    number, on_test = str(record.number), comparison.get("test") or {}
    values = {name: value for name, value in record.metrics.items() if name in ON_SCALE}
    values |= {f"speedup_vs_{name}": row["speedup"] for name, row in comparison["trials"].get(number, {}).items()}
    if tested and number in on_test:
        values |= {f"test_{name}": value for name, value in on_test[number]["metrics"].items()}
    return values


def tags_of(record: Record) -> dict[str, str]:
    """Return the tags of a trial that its record decides, without those of the front."""
    tags = {f"paretune.unknown.{name}": reason for name, reason in record.reasons.items()}
    tags |= {"paretune.recipe": recipe_line(record.recipe), "paretune.origin": record.origin}
    if record.failure is not None:
        tags |= {FAILURE: record.failure, NOTE: f"Failed: {plain(record.failure)}"}
    elif record.stop_reason is not None:
        tags |= {STOPPED: record.stop_reason, NOTE: f"Stopped early: {plain(record.stop_reason)}"}
    elif record.notes:
        tags[NOTE] = "\n\n".join(map(plain, record.notes))
    if record.state == "complete":
        tags[QUALITY] = quality_of(record)
    return tags


def quality_of(record: Record) -> str:
    """Return how far the measurement of a trial can be trusted: ``ok``, ``contended`` or ``unstable``."""
    if (record.facts.get("duet") or {}).get("unstable"):
        return "unstable"
    return "contended" if any(note.startswith("contended") for note in record.notes) else "ok"


@dataclass(frozen=True)
class CurvePoint:
    """The value of a metric after one epoch of a training inside a trial."""

    name: str
    value: float
    epoch: int
    stamp: int
    """Time in milliseconds since 1970."""


def curves_of(events: Sequence[Event]) -> list[CurvePoint]:
    """Return the curves of the trainings of a trial: ``curves/finetune_loss`` by epoch.

    A further training of a stage's name is ``finetune2``; of an epoch that was trained twice, as after a kill, the last
    values count.
    """
    trainings: dict[str, list[str | None]] = {}
    points: dict[tuple[str, int], CurvePoint] = {}
    for event in events:
        if event.kind != "epoch" or event.epoch is None:
            continue
        keys = trainings.setdefault(event.stage, [])
        if event.key not in keys:
            keys.append(event.key)
        place = keys.index(event.key)
        for metric, value in event.metrics.items():
            name = f"curves/{event.stage}{place + 1 if place else ''}_{metric}"
            points[name, event.epoch] = CurvePoint(name, value, event.epoch, int(event.time * 1000))
    return list(points.values())


def front_tags(on_front: Mapping[str, bool], tag: str) -> dict[str, str]:
    """Return the tags of a trial's membership in the fronts.

    Args:
        on_front: target → whether the trial is on its front.
        tag: name of the tag that holds whether the trial is on any front; ``.TARGET`` is appended for one target's.
    """
    tags = {tag: str(any(on_front.values())).lower()}
    return tags | {f"{tag}.{target}": str(value).lower() for target, value in on_front.items()}
