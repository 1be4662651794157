"""The files of a front: an HTML page that needs no other file, a PNG picture, a CSV table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.baselines import BASELINES, base_name
from paretune.core.metrics import change_in
from paretune.core.recipe_text import recipe_line
from paretune.reports.front_plot import STYLES, PlotRange, PlottedTrial, draw_front, frame_of, svg_values
from paretune.reports.front_table import advice_table, doubts, front_table
from paretune.reports.html import render
from paretune.search.pareto_front import Objective, keeps_all, point_of
from paretune.storage.trial_record import Record

MOST_FAILED = 20
"""Most failed trials that a page lists."""


@dataclass(frozen=True)
class FrontView:
    """Everything that the page and the picture of a front show."""

    front: Mapping[str, Any]
    """Result of ``front.front_object``."""
    records: Sequence[Record]
    objectives: Sequence[Objective]
    comparison: Mapping[str, Any] | None = None
    """Result of ``finalists.compare_front``."""
    floors: Mapping[str, float] | None = None
    """Metric → smallest value the constraints allow."""
    advice: Sequence[Mapping[str, Any]] = ()
    """Outcomes of the advice that was tried, results of ``promises.Outcome.tree``."""
    violations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Trial → constraint → amount by which it is broken; 0 or less means that it is kept."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """Metric → largest value the constraints allow."""

    @property
    def axes(self) -> tuple[str, str]:
        """Return the metrics of the horizontal (cost) and vertical (quality) axis."""
        down = [o.metric for o in self.objectives if o.direction == "minimize"]
        up = [o.metric for o in self.objectives if o.direction == "maximize"]
        metrics = [o.metric for o in self.objectives]
        return (down or metrics)[0], (up or metrics[::-1])[0]

    @property
    def marks(self) -> list[PlottedTrial]:
        """Return the marks of all complete trials that have both figures of the axes."""
        x, y = self.axes
        return [
            self._mark(record, record.metrics[x], record.metrics[y])
            for record in self.records
            if record.state == "complete" and y in record.metrics and record.metrics.get(x, 0) > 0
        ]

    @property
    def frame(self) -> PlotRange | None:
        """Return the part of the plane that is shown; None when there is nothing to show."""
        if not self.marks:
            return None
        cost, quality = self.axes
        return frame_of(self.marks, self.axes, (self.floors or {}).get(quality), self.ceilings.get(cost))

    @property
    def failed(self) -> list[Record]:
        """Return the trials that failed."""
        return [record for record in self.records if record.state == "failed"]

    @property
    def stopped(self) -> list[Record]:
        """Return the trials that were stopped early."""
        return [record for record in self.records if record.state == "stopped"]

    def gains(self, trial: int) -> Mapping[str, Mapping[str, Any]]:
        """Return the speed-ups of a trial over the baselines, measured interleaved."""
        comparison: Mapping[str, Any] = (self.comparison or {}).get("trials", {}).get(str(trial), {})
        return comparison

    def _mark(self, record: Record, x: float, y: float) -> PlottedTrial:
        m = record.metrics
        chosen = record.number in {point["trial"] for point in self.front["front"]}
        fit = keeps_all(self.violations.get(record.number, {}))
        kind = "front" if chosen else ("other" if fit else "unfit")
        if record.origin == "baseline":
            kind = base_name(record.number)
        cost, quality = self.axes
        lines = [f"trial {record.number}: {recipe_line(record.recipe)}", f"{quality} {y:.4f}, {cost} {x:.4g}"]
        lines += [f"{name} {m[name]:.4g}" for name in ("map50", "size_mib") if name in m]
        lines += [f"params {m['params']:,.0f}"] if "params" in m else []
        lines += [f"{gain['speedup']:.2f} x {name}" for name, gain in self.gains(record.number).items()]
        lines += self._doubts(record.number)
        low, high = m.get(f"{cost}_low", 0.0), m.get(f"{cost}_high", 0.0)
        spread = (low, high) if 0 < low <= high else None
        low, middle, high = change_in(m, quality) or (0.0, 0.0, 0.0)
        rise = (y + low - middle, y + high - middle) if low < high else None
        return PlottedTrial(record.number, x, y, kind, chosen, "\n".join(lines), spread, rise)

    def _doubts(self, trial: int) -> list[str]:
        """Return the doubts about a trial on the front: unstable latency, ties."""
        point = next((point for point in self.front["front"] if point["trial"] == trial), None)
        if point is None:
            return []
        tied = ", ".join(map(str, point["tied_with"]))
        lines = ["unstable: its latency is known less well than is wanted"] if point["unstable"] else []
        return lines + ([f"tied in latency with trial {tied}"] if tied else [])


def front_csv(picture: FrontView) -> str:
    """Return the front as CSV, with a row for each point and a column for each metric."""
    names = sorted({name for point in picture.front["front"] for name in point["metrics"]})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "recipe", *names])
    for point in picture.front["front"]:
        values = [point["metrics"].get(name) for name in names]
        writer.writerow([point["trial"], recipe_line(point["recipe"]), *("" if v is None else v for v in values)])
    return buffer.getvalue()


def front_png(picture: FrontView, file: Path) -> None:
    """Draw all trials, the front as a step line, and both baselines into a PNG file."""
    draw_front(f"{picture.front['sweep']} on {picture.front['target']}", picture.marks, picture.frame, file)


def front_html(picture: FrontView) -> str:
    """Return a page with the plot and the table that needs no other file."""
    front, frame = picture.front, picture.frame
    compared = picture.comparison if front["decided_by"] == "comparison" else None
    bases = [point_of(r, compared) for r in picture.records if r.number < len(BASELINES) and r.state == "complete"]
    failures = [
        f"trial {record.number}: {recipe_line(record.recipe)}: {_first_line(record)}"
        for record in picture.failed[:MOST_FAILED]
    ]
    more = len(picture.failed) - MOST_FAILED
    return render(
        "front_page.html",
        front=front,
        summary=_summary(picture),
        kinds=[(kind, name) for kind, (_, _, name) in STYLES.items()],
        plot=None if frame is None else svg_values(picture.marks, frame),
        rows=front_table(front, picture.comparison, bases),
        footnote=_footnote(picture),
        notes=[*(picture.comparison or {}).get("notes", ()), *doubts(front, picture.comparison)],
        advice=advice_table(picture.advice),
        failed=picture.failed,
        failures=failures + ([f"and {more} more"] if more > 0 else []),
    )


def _summary(picture: FrontView) -> str:
    aims = ", ".join(f"{objective.direction} {objective.metric}" for objective in picture.objectives)
    kept = "".join(f"; {metric} at least {floor:.4g}" for metric, floor in (picture.floors or {}).items())
    kept += "".join(f"; {metric} at most {ceiling:.4g}" for metric, ceiling in picture.ceilings.items())
    points, trials = len(picture.front["front"]), len(picture.records)
    ended = f"{len(picture.failed)} failed" + (f", {len(picture.stopped)} stopped early" if picture.stopped else "")
    return f"{points} of {trials} trials are on the front ({ended}): {aims}{kept}"


def _footnote(picture: FrontView) -> str:
    front = picture.front
    volume, reference = front.get("hypervolume"), front.get("reference") or {}
    beyond = ", ".join(
        f"{metric} {'unknown' if value is None else f'{value:.4g}'}" for metric, value in reference.items()
    )
    measure = "not defined" if volume is None else f"{volume:.4f} (cost on a log scale; reference {beyond})"
    speed = "Speed-ups: measured interleaved in one run."
    if picture.comparison is None:
        speed = "Speed-ups are measured interleaved, at the end of the sweep."
    elif "reason" in picture.comparison:
        speed = f"Speed-ups are not known: {picture.comparison['reason']}."
    sure = "Pale bars and small figures: 95 % intervals."
    return f"Δ: difference to the eager baseline, on the same images. {speed} {sure} Hypervolume {measure}."


def _first_line(record: Record) -> str:
    return next(iter((record.failure or "unknown reason").splitlines()), "")[:300]
