"""The front and all trials as CSV tables."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.recipe_text import recipe_line

COLUMNS = ("number", "target", "state", "kind", "front", "origin", "recipe", "size", "runtime", "artefact", "failure")
"""Fields of a trial that are columns of the table of all trials, before its parameters, metrics and seconds."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters at the start of a text that a spreadsheet would compute."""


def front_csv(front: Mapping[str, Any]) -> str:
    """Return the front as CSV, with a row for each point and a column for each metric."""
    names = sorted({name for point in front["front"] for name in point["metrics"]})
    rows = [
        [point["trial"], recipe_line(point["recipe"]), *(point["metrics"].get(name) for name in names)]
        for point in front["front"]
    ]
    return _csv(["trial", "recipe", *names], rows)


def trials_csv(trials: Sequence[Mapping[str, Any]]) -> str:
    """Return all trials as CSV, with a column for each parameter, each metric and the seconds of each stage.

    Args:
        trials: rows of ``page_data.page_data``.
    """
    groups = {group: sorted({name for trial in trials for name in trial[group]}) for group in ("params", "metrics")}
    stages = list(dict.fromkeys(stage for trial in trials for stage in trial["seconds"]))
    head = [*COLUMNS, *groups["params"], *groups["metrics"], *(f"seconds.{stage}" for stage in stages)]
    rows = [
        [
            *(trial[name] for name in COLUMNS),
            *(trial[group].get(name) for group, names in groups.items() for name in names),
            *(trial["seconds"].get(stage) for stage in stages),
        ]
        for trial in trials
    ]
    return _csv(head, rows)


def _csv(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    """Return a value for a cell: nothing for an unknown one, and a text that no spreadsheet computes."""
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return "" if value is None else value
