"""One trial of a sweep, whole: as plain data and as text for the terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from paretune.core.console import filled
from paretune.core.errors import UserError
from paretune.core.metrics import METRICS, UNKNOWN
from paretune.core.recipe_text import recipe_line
from paretune.core.spec import flat
from paretune.reports.tables import Table
from paretune.results.front_data import SweepView, results_of
from paretune.results.front_summary import front_of, records_of
from paretune.results.page_data import CLASSES, WORST, trial_row
from paretune.results.pick import figures_of
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_events import EVENTS
from paretune.storage.trial_record import STAGES, STOPPED, Record, trial_folder

SIZES = ("small", "medium", "large")
"""Sizes of objects by which COCO divides its figures."""
TOLD = frozenset({CLASSES, WORST, STAGES, STOPPED, "left_out"})
"""Facts of a record that are not among the facts of the machine and the measurement."""
PLACE = re.compile(r'^  File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>.+)$', re.MULTILINE)
"""Place in a traceback."""
Figure = Mapping[str, float | None]
"""``value`` of a metric with the ends ``low`` and ``high`` of its interval."""


@dataclass(frozen=True)
class TrialDetails:
    """A trial of a sweep on one of its targets."""

    view: SweepView
    record: Record

    @property
    def sweep(self) -> Sweep:
        """Return the sweep as the target has it."""
        return self.view.sweep

    @cached_property
    def row(self) -> dict[str, Any]:
        """The trial as the page of the sweep has it (`page_data.trial_row`)."""
        return trial_row(results_of(self.view), self.record)

    @property
    def folder(self) -> Path:
        """Return the trial's folder."""
        return trial_folder(self.sweep.folder, self.record.number)

    @property
    def artefact(self) -> Path | None:
        """Return the folder of the trial's artefact."""
        return None if self.record.artefact is None else self.sweep.folder / self.record.artefact

    @property
    def figures(self) -> dict[str, dict[str, float | None]]:
        """Return the known metrics with the ends of their intervals, in the order of the table of metrics."""
        figures = figures_of(self.row["metrics"])
        order = {name: place for place, name in enumerate(METRICS)}
        return {name: figures[name] for name in sorted(figures, key=lambda name: order.get(name, len(order)))}

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Return the finished stages in their order, each with seconds and whether its result was in the store."""
        if done := self.record.facts.get(STAGES):
            return [dict(one) for one in done]
        plain = {"key": None, "cpu_seconds": None, "reused": False}  # a record of an older version lists none
        return [{"stage": name, "seconds": seconds, **plain} for name, seconds in self.record.seconds.items()]

    @property
    def facts(self) -> dict[str, Any]:
        """Return the facts of the machine and the measurement."""
        return {name: value for name, value in self.record.facts.items() if name not in TOLD}

    @property
    def failure(self) -> dict[str, Any] | None:
        """Return why the trial failed: ``message``, ``place`` in the code and ``file`` of the traceback, if known."""
        if self.record.state != "failed":
            return None
        file = self.folder / "failure.txt"
        places = list(PLACE.finditer(file.read_text(errors="replace"))) if file.is_file() else []
        place = "{file}:{line} in {function}".format(**places[-1].groupdict()) if places else None
        return {
            "message": self.record.failure,
            "place": place,
            "file": str(file) if file.is_file() else None,
        }

    @property
    def events(self) -> Path | None:
        """Return the file of the trial's events."""
        file = self.folder / EVENTS
        return file if file.is_file() else None

    def tree(self) -> dict[str, Any]:
        """Return the trial as plain data."""
        row = self.row
        named = ("target", "state", "kind", "front", "origin", "params", "reasons", "broken", "unstable", "tied_with")
        best = self.view.front["best"]
        return {
            "sweep": self.sweep.name,
            "trial": self.record.number,
            **{name: row[name] for name in named},
            "recommended": best is not None and best["trial"] == self.record.number,
            "recipe": dict(self.record.recipe),
            "started": self.record.started,
            "stages": self.stages,
            "metrics": self.figures,
            "classes": row["classes"],
            "worst_images": row["worst"],
            "facts": self.facts,
            "notes": row["notes"],
            "stopped": self.record.facts.get(STOPPED) if self.record.state == "stopped" else None,
            "failure": self.failure,
            "artefact": None if self.artefact is None else str(self.artefact),
            "events": None if self.events is None else str(self.events),
        }


def find_trial(sweep: Sweep, number: int | None = None) -> TrialDetails:
    """Return a trial of a sweep on the target that the sweep is viewed on.

    Args:
        sweep: with the trial.
        number: of the trial; None is the one that ``front`` recommends.

    Raises:
        UserError: the trial has no record, or there is no recommended one.
    """
    records = records_of(sweep)
    view = SweepView(sweep, front_of(sweep, records), records)
    if number is None:
        if (best := view.front["best"]) is None:
            raise UserError(f"sweep {sweep.name!r} recommends no trial yet: name one of {_numbers(records)}")
        number = best["trial"]
    record = next((record for record in records if record.number == number), None)
    if record is None:
        raise UserError(f"sweep {sweep.name!r} has no record of trial {number}; it has {_numbers(records)}")
    return TrialDetails(view, record)


def _numbers(records: list[Record]) -> str:
    """Return the numbers of records as text, such as ``0-8, 10``."""
    spans: list[list[int]] = []
    for record in records:
        if spans and record.number == spans[-1][1] + 1:
            spans[-1][1] = record.number
        else:
            spans.append([record.number, record.number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans) or "none"


def figure_text(name: str, figure: Figure | None) -> str:
    """Return the value of a metric with its unit and its interval."""
    if figure is None or figure["value"] is None:
        return UNKNOWN
    row, ends = METRICS.get(name), [figure["low"], figure["high"]]
    words = [row.number(end) if row else f"{end:.3g}" for end in ends if end is not None]
    value = row.text(figure["value"]) if row else f"{figure['value']:.4g}"
    unit = f" {row.unit}" if row and row.unit else ""
    interval = f" [{', '.join(words)}]" if len(words) == len(ends) else ""
    return f"{value}{unit}{interval}"


def trial_text(trial: TrialDetails) -> str:
    """Return a trial as text."""
    record, tree = trial.record, trial.tree()
    target = f" on target {tree['target']}" if len(trial.sweep.whole_job.targets) > 1 else ""
    head = [
        f"trial {record.number} of {tree['sweep']}{target}: {', '.join(_standing(tree))}",
        f"recipe: {recipe_line(record.recipe)}",
        *(f"  {name}: {value}" for name, value in record.params.items()),
        f"{tree['origin']}, begun {time.strftime('%Y-%m-%d %H:%M', time.localtime(record.started))}",
        *_failed(tree),
        *(f"note: {note}" for note in tree["notes"]),
    ]
    below = [
        *(f"{name}: not known, {reason}" for name, reason in tree["reasons"].items()),
        *(f"{name}: {value}" for name, value in flat(tree["facts"]).items()),
        *(f"{name}: {tree[name]}" for name in ("artefact", "events") if tree[name]),
    ]
    tables = [table.text() for table in _tables(trial) if table.rows]
    return "\n".join([*(filled(line, "  ") for line in head), *tables, *(filled(line, "  ") for line in below)])


def _standing(tree: Mapping[str, Any]) -> list[str]:
    """Return what became of a trial in words."""
    words = [tree["state"]]
    words += ["on the front"] if tree["front"] else []
    words += ["recommended"] if tree["recommended"] else []
    words += [f"breaks {', '.join(tree['broken'])}"] if tree["broken"] else []
    words += [f"tied with {', '.join(map(str, tree['tied_with']))}"] if tree["tied_with"] else []
    return [*words, *(["latency unstable"] if tree["unstable"] else [])]


def _failed(tree: Mapping[str, Any]) -> list[str]:
    """Return why a trial failed or was stopped, and where."""
    if (stopped := tree["stopped"]) is not None:
        return [f"stopped after {stopped['stage']}: {stopped['reason']}"]
    if (failure := tree["failure"]) is None:
        return []
    where = {"raised in": failure["place"], "traceback": failure["file"]}
    return [f"failed: {failure['message']}", *(f"{name}: {value}" for name, value in where.items() if value)]


def _tables(trial: TrialDetails) -> list[Table]:
    """Return the tables of a trial: stages, metrics, sizes of objects, classes."""
    figures, metrics = trial.figures, trial.row["metrics"]
    stages = [
        (one["stage"], f"{one['seconds']:.1f}", "from the store" if one["reused"] else "computed")
        for one in trial.stages
    ]
    sized = [(size, *(metrics.get(f"{kind}_{size}") for kind in ("map", "ar"))) for size in SIZES]
    sizes = [(size, *map(_share, values)) for size, *values in sized if any(value is not None for value in values)]
    classes = [(name, _share(value)) for name, value in trial.row["classes"].items()]
    told = {f"{kind}_{size}" for kind in ("map", "ar") for size in SIZES}
    rows = [(name, figure_text(name, figure)) for name, figure in figures.items() if name not in told]
    return [
        Table("", ("stage", "s", "result"), tuple(stages), words=("stage", "result")),
        Table("", ("metric", "value"), tuple(rows), words=("metric", "value")),
        Table("", ("objects", "map", "ar100"), tuple(sizes)),
        Table("", ("class", "map"), tuple(classes), words=("class",)),
    ]


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"
