"""The front as pictures and tables: PNG, self-contained HTML, CSV."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

from paretune.core.baselines import BASELINES
from paretune.core.metrics import UNKNOWN, Metric, change_in, in_order
from paretune.core.recipe_text import recipe_line
from paretune.reports.front_plot import PlotRange, PlottedTrial, draw, frame_of, svg
from paretune.reports.terminal import COLUMNS, doubts, marks, outcome_words
from paretune.search.pareto_front import Objective, keeps_all, point_of
from paretune.storage.trial_record import Record

MOST_FAILED = 20
"""Failed trials that a page lists."""


@dataclass(frozen=True)
class FrontView:
    """All that the pictures of one front show."""

    front: Mapping[str, Any]
    """As ``front.front_object`` returns it."""
    records: Sequence[Record]
    objectives: Sequence[Objective]
    comparison: Mapping[str, Any] | None = None
    """As ``finalists.compare_front`` returns it."""
    floors: Mapping[str, float] | None = None
    """Metric → smallest value the constraints allow."""
    advice: Sequence[Mapping[str, Any]] = ()
    """What came of advice that was tried, as ``promises.Outcome.tree`` returns it."""
    violations: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Trial → constraint → by how much it is broken; 0 or less is kept."""
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
        """Return every complete trial that has a place on the axes."""
        x, y = self.axes
        return [
            self._mark(record, record.metrics[x], record.metrics[y])
            for record in self.records
            if record.state == "complete" and y in record.metrics and record.metrics.get(x, 0) > 0
        ]

    @property
    def frame(self) -> PlotRange | None:
        """Return what part of the plane is shown; None when there is nothing to show."""
        if not self.marks:
            return None
        cost, quality = self.axes
        return frame_of(self.marks, self.axes, (self.floors or {}).get(quality), self.ceilings.get(cost))

    @property
    def failed(self) -> list[Record]:
        """Return the trials that failed."""
        return [record for record in self.records if record.state == "failed"]

    def gains(self, trial: int) -> Mapping[str, Mapping[str, Any]]:
        """Return a trial's speed-ups against the baselines, as they were measured interleaved."""
        found: Mapping[str, Any] = (self.comparison or {}).get("trials", {}).get(str(trial), {})
        return found

    def _mark(self, record: Record, x: float, y: float) -> PlottedTrial:
        m = record.metrics
        chosen = record.number in {point["trial"] for point in self.front["front"]}
        fit = keeps_all(self.violations.get(record.number, {}))
        kind = "front" if chosen else ("other" if fit else "unfit")
        if record.number < len(BASELINES):
            kind = BASELINES[record.number]
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
        """Return what is not sure of a point of the front."""
        point = next((point for point in self.front["front"] if point["trial"] == trial), None)
        if point is None:
            return []
        tied = ", ".join(map(str, point["tied_with"]))
        said = ["unstable: its latency is known less well than is wanted"] if point["unstable"] else []
        return said + ([f"tied in latency with trial {tied}"] if tied else [])


def front_csv(picture: FrontView) -> str:
    """Return the front as CSV: a row for each point, every metric a column."""
    names = sorted({name for point in picture.front["front"] for name in point["metrics"]})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "recipe", *names])
    for point in picture.front["front"]:
        values = [point["metrics"].get(name) for name in names]
        writer.writerow([point["trial"], recipe_line(point["recipe"]), *("" if v is None else v for v in values)])
    return buffer.getvalue()


def front_png(picture: FrontView, file: Path) -> None:
    """Draw all trials, the front as a step line and both baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    from paretune.reports.front_plot import log_ticks

    figure = Figure(figsize=(9, 5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(f"{picture.front['sweep']} on {picture.front['target']}", loc="left", fontsize=12, fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    frame = picture.frame
    if frame is not None:
        axes.set_xscale("log")
        axes.set(xlim=frame.x, ylim=frame.y, xlabel=f"{frame.names[0]}, log scale", ylabel=frame.names[1])
        ticks = log_ticks(*frame.x)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(visible=True, color="#e3e6ea")
        axes.set_axisbelow(True)
        draw(axes, picture.marks, frame)
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    else:
        axes.text(0.5, 0.5, "no complete trial yet", ha="center", transform=axes.transAxes)
    figure.savefig(file)


def front_html(picture: FrontView) -> str:
    """Return a page with the plot and the table, that needs nothing from anywhere."""
    front, frame = picture.front, picture.frame
    template = Template((Path(__file__).parent / "front_page.html").read_text(encoding="utf-8"))
    chosen = [point["trial"] for point in front["front"]]
    told = picture.comparison if front["decided_by"] == "comparison" else None
    bases = [point_of(r, told) for r in picture.records if r.number < len(BASELINES) and r.state == "complete"]
    rows = [_row(picture, point, "") for point in front["front"]]
    rows += [_row(picture, point, "base") for point in bases if point["trial"] not in chosen]
    return template.substitute(
        heads=_heads(picture),
        sweep=html.escape(str(front["sweep"])),
        target=html.escape(str(front["target"])),
        summary=html.escape(_summary(picture)),
        plot="<p>no complete trial yet</p>" if frame is None else svg(picture.marks, frame),
        rows="\n".join(rows),
        footnote=html.escape(_footnote(picture)),
        notes=_notes(picture),
        advice=_advice(picture),
        failed=_failed(picture),
    )


def _rows(picture: FrontView) -> list[Metric]:
    """Return the metrics that are columns of the table."""
    return in_order([*COLUMNS, *(objective.metric for objective in picture.objectives)])


def _heads(picture: FrontView) -> str:
    """Return the heads of the columns of figures."""
    heads = []
    for row in _rows(picture):
        heads.append(f"{row.scale[1]} {row.column}".strip())
        heads += [f"Δ {row.name}"] if row.compared else []
        heads += ["Δ map test"] if row.name == "map" and _tested(picture) else []
        heads += ["× eager", "× ONNX<br>Runtime"] if row.name == "latency_ms" else []  # noqa: RUF001 - a product
    return "".join(f"<th>{head}</th>" for head in heads)


def _tested(picture: FrontView) -> bool:
    """Tell whether the front was evaluated on the split test too."""
    return ((picture.front["baseline"] or {}).get("test")) is not None


def _summary(picture: FrontView) -> str:
    aims = ", ".join(f"{objective.direction} {objective.metric}" for objective in picture.objectives)
    kept = "".join(f"; {metric} at least {floor:.4g}" for metric, floor in (picture.floors or {}).items())
    kept += "".join(f"; {metric} at most {ceiling:.4g}" for metric, ceiling in picture.ceilings.items())
    points, trials = len(picture.front["front"]), len(picture.records)
    return f"{points} of {trials} trials are on the front ({len(picture.failed)} failed): {aims}{kept}"


def _footnote(picture: FrontView) -> str:
    front = picture.front
    volume, reference = front.get("hypervolume"), front.get("reference") or {}
    beyond = ", ".join(
        f"{metric} {'unknown' if value is None else f'{value:.4g}'}" for metric, value in reference.items()
    )
    said = "not defined" if volume is None else f"{volume:.4f} (cost on a log scale; reference {beyond})"
    speed = "Speed-ups: measured interleaved in one run."
    if picture.comparison is None:
        speed = "Speed-ups are measured interleaved, at the end of the sweep."
    elif "reason" in picture.comparison:
        speed = f"Speed-ups are not known: {picture.comparison['reason']}."
    sure = "Pale bars and small figures: 95 % intervals."
    return f"Δ: difference to the eager baseline, on the same images. {speed} {sure} Hypervolume {said}."


def _cell(value: float | None, form: str) -> str:
    return "<td>–</td>" if value is None else f"<td>{value:{form}}</td>"  # noqa: RUF001 - an empty cell


def _change_cell(metric: str, metrics: Mapping[str, float | None], base: Mapping[str, float | None]) -> str:
    """Return the cell of a metric's difference to the baseline's, with its interval if it is known."""
    low, _, high = change_in(metrics, metric) or (0.0, 0.0, 0.0)
    value, before = metrics.get(metric), base.get(metric)
    if value is None or before is None:
        return _cell(None, "")
    if low == high:
        return _cell(value - before, "+.3f")
    return f"<td>{value - before:+.3f}<br><small>{low:+.3f} to {high:+.3f}</small></td>"


def _gain_cell(gain: Mapping[str, Any] | None) -> str:
    """Return the cell of a speed-up, with its interval."""
    if gain is None:
        return _cell(None, "")
    if gain["low"] == gain["high"]:  # the baseline itself
        return _cell(gain["speedup"], ".2f")
    tied = "tied, " if gain["verdict"] == "tied" else ""
    return f"<td>{gain['speedup']:.2f}<br><small>{tied}{gain['low']:.2f} to {gain['high']:.2f}</small></td>"


def _cells(picture: FrontView, point: Mapping[str, Any], row: Metric) -> list[str]:
    """Return the cells of one metric of a point, as ``_heads`` names their columns."""
    metrics, baseline = point["metrics"], picture.front["baseline"] or {"metrics": {}}
    number = row.number(metrics.get(row.name))
    cells = [_cell(None, "") if number == UNKNOWN else f"<td>{number}</td>"]
    if row.compared:
        cells.append(_change_cell(row.name, metrics, baseline["metrics"]))
    if row.name == "map" and _tested(picture):
        on_test = (point["test"] or {"metrics": {}})["metrics"]
        cells.append(_change_cell("map", on_test, baseline["test"]["metrics"]))
    if row.name == "latency_ms":
        if notes := marks(point):
            cells[0] = cells[0].replace("</td>", f"<br><small>{html.escape(' '.join(notes))}</small></td>")
        cells += [_gain_cell(picture.gains(point["trial"]).get(name)) for name in BASELINES]
    return cells


def _row(picture: FrontView, point: Mapping[str, Any], kind: str) -> str:
    cells = [cell for row in _rows(picture) for cell in _cells(picture, point, row)]
    recipe = html.escape(recipe_line(point["recipe"]))
    head = f'<tr class="{kind}" data-trial="{point["trial"]}"><td>{point["trial"]}</td><td class="r">{recipe}</td>'
    return "".join([head, *cells, "</tr>"])


def _notes(picture: FrontView) -> str:
    """Return what a reader of the speed-ups must know."""
    said = [*(picture.comparison or {}).get("notes", ()), *doubts(picture.front, picture.comparison)]
    notes = [f"<li>{html.escape(note)}</li>" for note in said]
    return f'<ul class="dim">{"".join(notes)}</ul>' if notes else ""


def _advice(picture: FrontView) -> str:
    """Return a table of what advice predicted beside what was measured."""
    if not picture.advice:
        return ""
    rows = []
    for one in picture.advice:
        trials = "".join(f"<td>{'–' if one[name] is None else one[name]}</td>" for name in ("trial", "against"))  # noqa: RUF001
        known = one["speedup"] is not None
        measured = f"{one['speedup']:.2f}<br><small>{one['low']:.2f} to {one['high']:.2f}</small>" if known else "–"  # noqa: RUF001
        words = f'<td class="r">{html.escape(one["knob"])}</td>{trials}<td>{one["predicted"]:.2f}</td>'
        rows.append(f'<tr>{words}<td>{measured}</td><td class="r">{html.escape(outcome_words(one))}</td></tr>')
    names = "<th>trial</th><th>against</th><th>predicted</th><th>measured</th>"
    head = f'<thead><tr><th class="r">advice</th>{names}<th class="r">outcome</th></tr></thead>'
    title = "<h2>Advice that was tried first: times as fast from image to boxes</h2>"
    return f'{title}<div class="wide"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _failed(picture: FrontView) -> str:
    if not picture.failed:
        return ""
    rows = [
        f"<li>trial {record.number}: {html.escape(recipe_line(record.recipe))}: {html.escape(_first_line(record))}</li>"
        for record in picture.failed[:MOST_FAILED]
    ]
    more = len(picture.failed) - MOST_FAILED
    rows += [f"<li>and {more} more</li>"] if more > 0 else []
    return f"<details><summary>{len(picture.failed)} failed</summary><ul>{''.join(rows)}</ul></details>"


def _first_line(record: Record) -> str:
    return next(iter((record.failure or "unknown reason").splitlines()), "")[:300]
