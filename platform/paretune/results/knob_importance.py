"""The importance of a sweep's knobs as JSON and text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from paretune.core.metrics import UNKNOWN
from paretune.reports.tables import Table
from paretune.results.front_summary import records_of
from paretune.results.study_place import database_of
from paretune.results.sweep_folder import Sweep
from paretune.search.knob_importance import FRONT, KnobImportance, knob_importance


def importance_of(sweep: Sweep) -> list[KnobImportance]:
    """Return the importance of every parameter of a sweep's space."""
    objectives, parameters = sweep.job.objectives, list(sweep.space.parameters)
    return knob_importance(database_of(sweep), objectives, records_of(sweep), parameters)


def importance_tree(knobs: list[KnobImportance]) -> list[dict[str, Any]]:
    """Return importances as plain data."""
    return [asdict(knob) for knob in knobs]


def importance_text(sweep: Sweep, knobs: list[KnobImportance]) -> str:
    """Return importances as a table for the terminal."""
    aims = (FRONT, *sweep.job.objectives)
    table = Table(
        f"importance of the knobs of {sweep.name}, as shares",
        ("knob", "trials", *aims, ""),
        tuple((knob.knob, str(knob.active), *(_cell(knob, aim) for aim in aims), knob.reason or "") for knob in knobs),
        words=("",),
    )
    notes = ["~: no larger than chance would make it", "trials: complete trials in which the knob had a value"]
    return "\n".join([table.text(), *notes])


def _cell(knob: KnobImportance, aim: str) -> str:
    """Return a share, marked if it is no larger than chance would make it."""
    if knob.shares is None or knob.above_chance is None:
        return UNKNOWN
    return f"{'' if knob.above_chance[aim] else '~ '}{knob.shares[aim]:.2f}"
