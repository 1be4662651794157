"""Everything that the page and the report of a sweep's front show, as plain data.

The page, the report, ``trials.json``, ``trials.csv`` and the pictures are all made from this one tree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paretune.core.baselines import BASELINES, base_name
from paretune.core.metrics import CHANGED, METRICS, OTHERS, Direction, change_names, metric_of
from paretune.core.recipe_text import recipe_line
from paretune.search.pareto_front import keeps_all
from paretune.storage.trial_record import STAGES, STOPPED, Record

VERSION = 1
"""Version of the tree."""
CLASSES = "classes"
"""Fact of a trial: class → average precision, IoU 0.50:0.95, null for a class without objects."""
WORST = "worst_images"
"""Fact of a trial: the images with the most mistakes, each with ``image``, ``wrong`` and ``missed``."""
NO_PICTURES: Mapping[int, Mapping[str, Any]] = {}
FRONT, OTHER, BROKEN = "front", "other", "broken"
"""Kinds of complete trials that are no baselines: on the front, keeping all constraints, breaking one."""


@dataclass(frozen=True)
class TargetResults:
    """The trials of a sweep as one target has measured them, and their front."""

    name: str
    description: str
    """Device and threads, such as ``cpu, 1 thread``."""
    records: Sequence[Record]
    """Records of all trials, their latencies on this target's scale."""
    front: Mapping[str, Any]
    """Result of ``pareto_front.front_object``, with its ``hypervolume_series``."""
    comparison: Mapping[str, Any] | None = None
    """Result of ``compare_front``; None before the end of the sweep."""
    floors: Mapping[str, float] = field(default_factory=dict)
    """Metric → smallest value that the constraints allow."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """Metric → largest value that the constraints allow."""
    violations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Trial → constraint → amount by which it is broken; 0 or less means that it is kept."""


@dataclass(frozen=True)
class SweepState:
    """Facts about a sweep that are not in its records."""

    name: str
    created: float
    """Seconds since 1970."""
    finished: bool
    ended: str | None = None
    """Which limit ended the search before its last trial."""
    planned: int | None = None
    """Number of trials that the budget allows."""
    about: Mapping[str, str] = field(default_factory=dict)
    """What was searched: dataset, detector, budget and the like, each as text."""
    training_seconds: float = 0.0
    """Seconds of the baseline's training; 0 if it was not trained here."""
    clock_seconds: float = 0.0
    """Seconds in which at least one trial ran."""
    notes: tuple[str, ...] = ()


def page_data(
    sweep: SweepState,
    targets: Sequence[TargetResults],
    *,
    advice: Sequence[Mapping[str, Any]] = (),
    importance: Sequence[Mapping[str, Any]] = (),
    pictures: Mapping[int, Mapping[str, Any]] = NO_PICTURES,
    written: float | None = None,
) -> dict[str, Any]:
    """Return the tree of a sweep, which JSON can hold.

    Args:
        sweep: facts about the sweep.
        targets: results of each target, the job's first one first.
        advice: outcomes of the advice that was tried, results of ``AdviceOutcome.tree``.
        importance: result of ``knob_importance.importance_tree``.
        pictures: trial → pictures of its worst images (`keep_worst_pictures`).
        written: time of the page in seconds since 1970; None takes the present one.

    Returns:
        ``trials`` has a row for each trial and target; in ``targets`` trials are named by their numbers.
    """
    rows = [trial_row(target, record) for target in targets for record in target.records]
    names = dict.fromkeys(name for row in rows for name in row["metrics"])
    objectives: Mapping[str, Direction] = targets[0].front["objectives"] if targets else {}
    first = targets[0].records if targets else ()
    return {
        "version": VERSION,
        "sweep": sweep.name,
        "created": sweep.created,
        "written": time.time() if written is None else written,
        "finished": sweep.finished,
        "ended": sweep.ended,
        "planned": sweep.planned,
        "about": dict(sweep.about),
        "notes": list(sweep.notes),
        "objectives": dict(objectives),
        "metrics": metric_rows(names),
        "targets": [target_tree(target) for target in targets],
        "trials": rows,
        "pictures": {str(number): dict(one) for number, one in pictures.items()},
        "stages": stage_totals(first),
        "cost": {
            "trials": sum(sum(record.seconds.values()) for record in first),
            "clock": sweep.clock_seconds,
            "training": sweep.training_seconds,
        },
        "importance": [dict(knob) for knob in importance],
        "advice": [dict(one) for one in advice],
    }


def trial_row(target: TargetResults, record: Record) -> dict[str, Any]:
    """Return one trial on one target."""
    known = record.facts.get(STOPPED, {}).get("metrics", {}) if record.state == "stopped" else record.metrics
    stages = record.facts.get(STAGES) or ()
    point = next((one for one in target.front["front"] if one["trial"] == record.number), None)
    return {
        "number": record.number,
        "target": target.name,
        "state": record.state,
        "kind": _kind(target, record, chosen=point is not None),
        "front": point is not None,
        "origin": record.origin,
        "recipe": recipe_line(record.recipe),
        "size": str(record.recipe["input_size"]),
        "steps": [next(iter(step)) for step in record.recipe["steps"]],
        "runtime": next(iter(record.recipe["runtime"])),
        "params": dict(record.params),
        "metrics": {name: value for name, value in known.items() if not name.startswith("expected_")},
        "reasons": dict(record.reasons),
        "broken": [name for name, value in target.violations.get(record.number, {}).items() if not value <= 0],
        "seconds": dict(record.seconds),
        "reused": [one["stage"] for one in stages if one.get("reused")],
        "started": record.started,
        "failure": record.failure or record.stop_reason,
        "notes": list(record.notes),
        "artefact": record.artefact,
        "unstable": _unstable(target, record),
        "tied_with": [] if point is None else list(point["tied_with"]),
        "classes": dict(record.facts.get(CLASSES) or {}),
        "worst": [dict(one) for one in record.facts.get(WORST) or ()],
    }


def _kind(target: TargetResults, record: Record, *, chosen: bool) -> str:
    """Return how a trial is drawn: a baseline's name, its state if it is not complete, or its relation to the front."""
    if record.state != "complete":
        return record.state
    if record.origin == "baseline" and record.number < len(BASELINES):
        return base_name(record.number)
    if chosen:
        return FRONT
    return OTHER if keeps_all(target.violations.get(record.number, {})) else BROKEN


def _unstable(target: TargetResults, record: Record) -> bool:
    """Return whether the latency of a trial is known less well than is wanted."""
    compared = (target.comparison or {}).get("latencies", {}).get(str(record.number))
    return bool((compared or record.facts.get("duet") or {}).get("unstable"))


def target_tree(target: TargetResults) -> dict[str, Any]:
    """Return the front of one target, its limits, ties and speed-ups; trials are named by their numbers."""
    front, comparison = target.front, target.comparison or {}
    tested = {point["trial"]: point["test"] for point in front["front"] if point["test"]}
    base = front["baseline"]
    if base is not None and base["test"]:
        tested[base["trial"]] = base["test"]
    return {
        "name": target.name,
        "description": target.description,
        "baseline": None if base is None else base["trial"],
        "front": [point["trial"] for point in front["front"]],
        "best": front["best"],
        "decided_by": front["decided_by"],
        "floors": dict(target.floors),
        "ceilings": dict(target.ceilings),
        "ties": {str(point["trial"]): list(point["tied_with"]) for point in front["front"] if point["tied_with"]},
        "gains": {trial: dict(rows) for trial, rows in (comparison.get("trials") or {}).items()},
        "gains_unknown": comparison.get("reason"),
        "test": {str(trial): dict(one["metrics"]) for trial, one in tested.items()},
        "hypervolume": front["hypervolume"],
        "hypervolume_unknown": front["hypervolume_unknown"],
        "reference": dict(front["reference"]),
        "series": [dict(point) for point in front.get("hypervolume_series", ())],
        "notes": list(comparison.get("notes", ())),
    }


def metric_rows(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return a row for each metric that can be an axis, in the order of the table; ends of intervals are none.

    ``low`` and ``high`` name the ends of a metric's interval; ``change`` names its difference to the baseline's, whose
    interval stands for that of the metric. Each is empty if trials do not have it.
    """
    present = list(names)
    listed = [name for name in [*METRICS, *OTHERS.names] if name in present and not name.endswith("_delta_low")]
    rows = []
    for name in listed:
        row = metric_of(name)
        divisor, word = row.scale
        rows.append(
            {
                "name": name,
                "unit": row.unit,
                "about": row.about,
                "direction": row.direction,
                "digits": row.digits,
                "divisor": divisor,
                "word": word,
                "low": _end(name, "low", present),
                "high": _end(name, "high", present),
                "change": "",
            }
        )
        if name in CHANGED and change_names(name)[1] in present:
            rows[-1]["change"] = change_names(name)[1]
            low, middle, high = change_names(name)
            about = f"{name} less the eager baseline's, on the same images"
            rows.append({**rows[-1], "name": middle, "about": about, "low": low, "high": high, "change": ""})
    others = [name for name in present if name not in METRICS and not name.endswith(("_low", "_high", "_delta"))]
    plain = {"unit": "", "about": "", "direction": None, "digits": 3, "divisor": 1.0, "word": ""}
    plain |= {"low": "", "high": "", "change": ""}
    return [*rows, *({**plain, "name": name} for name in others if name not in OTHERS.names)]


def _end(metric: str, end: str, present: Sequence[str]) -> str:
    """Return the name of one end of a metric's interval; empty if trials do not have it."""
    name = f"{metric}_{end}"
    return name if name in present else ""


def stage_totals(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return seconds of each stage over all trials, in the order of the stages, and how often its result was reused."""
    totals: dict[str, dict[str, Any]] = {}
    for record in records:
        reused = [one["stage"] for one in record.facts.get(STAGES) or () if one.get("reused")]
        for stage, seconds in record.seconds.items():
            total = totals.setdefault(stage, {"stage": stage, "seconds": 0.0, "trials": 0, "reused": 0})
            total["seconds"] += seconds
            total["trials"] += 1
            total["reused"] += stage in reused
    return list(totals.values())
