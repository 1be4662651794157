"""The front as pictures and tables: PNG, self-contained HTML, CSV."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from paretune.display import recipe_line
from paretune.front import Objective
from paretune.records import Record

GREY, FRONT, EAGER, RUNTIME, BAD = "#9aa0a6", "#1a73e8", "#b06000", "#137333", "#d93025"


@dataclass(frozen=True)
class Picture:
    """All that the pictures of one front show."""

    front: Mapping[str, Any]
    """As ``front.front_object`` returns it."""
    records: Sequence[Record]
    objectives: Sequence[Objective]
    comparison: Mapping[str, Any] | None = None
    """As ``trial.compare_front`` returns it."""
    floors: Mapping[str, float] | None = None
    """Metric → smallest value the constraints allow."""

    @property
    def axes(self) -> tuple[str, str]:
        """Return the metrics of the horizontal (cost) and vertical (quality) axis."""
        down = [o.metric for o in self.objectives if o.direction == "minimize"]
        up = [o.metric for o in self.objectives if o.direction == "maximize"]
        metrics = [o.metric for o in self.objectives]
        return (down or metrics)[0], (up or metrics[::-1])[0]

    @property
    def points(self) -> list[dict[str, Any]]:
        """Return every complete trial with its place and how it is to be drawn."""
        x, y = self.axes
        chosen = {point["trial"] for point in self.front["front"]}
        rows = []
        for record in self.records:
            m = record.metrics
            if record.state != "complete" or x not in m or y not in m:
                continue
            kind = "front" if record.number in chosen else "other"
            kind = {0: "eager", 1: "onnxruntime"}.get(record.number, kind) if record.origin == "baseline" else kind
            rows.append(
                {
                    "trial": record.number,
                    "x": m[x],
                    "y": m[y],
                    "kind": kind,
                    "chosen": record.number in chosen,
                    "recipe": recipe_line(record.recipe),
                    "map50": m.get("map50"),
                    "size": m.get("size_mib"),
                    "speedups": _speedups(self.comparison, record.number),
                }
            )
        return rows


def _speedups(comparison: Mapping[str, Any] | None, trial: int) -> dict[str, float]:
    rows = ((comparison or {}).get("trials") or {}).get(str(trial), {})
    return {name: row["speedup"] for name, row in rows.items()}


def front_csv(picture: Picture) -> str:
    """Return the front as CSV: a row for each point, every metric a column."""
    names = sorted({name for point in picture.front["front"] for name in point["metrics"]})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["trial", "recipe", *names])
    for point in picture.front["front"]:
        values = [point["metrics"].get(name) for name in names]
        writer.writerow([point["trial"], recipe_line(point["recipe"]), *("" if v is None else v for v in values)])
    return buffer.getvalue()


def front_png(picture: Picture, file: Path) -> None:
    """Draw all trials, the front as a step line and both baselines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    x_name, y_name = picture.axes
    figure = Figure(figsize=(9, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles = {
        "other": ("o", GREY, "trial"),
        "front": ("o", FRONT, "front"),
        "eager": ("s", EAGER, "baseline, eager"),
        "onnxruntime": ("D", RUNTIME, "baseline, ONNX Runtime fp32"),
    }
    for kind, (marker, colour, label) in styles.items():
        mine = [p for p in picture.points if p["kind"] == kind]
        if mine:
            axes.scatter(
                [p["x"] for p in mine], [p["y"] for p in mine], marker=marker, c=colour, label=label, s=48, zorder=3
            )
    chosen = sorted((p for p in picture.points if p["chosen"]), key=lambda p: p["x"])
    if chosen:
        axes.step([p["x"] for p in chosen], [p["y"] for p in chosen], where="post", c=FRONT, lw=1.4, zorder=2)
    for point in chosen:
        axes.annotate(
            str(point["trial"]), (point["x"], point["y"]), xytext=(4, 5), textcoords="offset points", fontsize=8
        )
    floor = (picture.floors or {}).get(y_name)
    if floor is not None:
        axes.axhline(floor, c=BAD, lw=1, ls="--", label="smallest allowed")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter() if _narrow(picture) else NullFormatter())
    axes.set_xlabel(f"{x_name} (log)")
    axes.set_ylabel(y_name)
    axes.set_title(f"{picture.front['sweep']} on {picture.front['target']}")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(file)


def _narrow(picture: Picture) -> bool:
    values = [p["x"] for p in picture.points if p["x"] > 0]
    return bool(values) and max(values) / min(values) < 20


def front_html(picture: Picture) -> str:
    """Return a page with the plot and the table, that needs nothing from anywhere."""
    sweep, target = html.escape(picture.front["sweep"]), html.escape(picture.front["target"])
    volume = picture.front.get("hypervolume")
    said = "unknown" if volume is None else f"{volume:.4f}"
    data = json.dumps(picture.points).replace("<", "\\u003c")
    page = Template((Path(__file__).parent / "front_page.html").read_text(encoding="utf-8"))
    return page.substitute(
        sweep=sweep,
        target=target,
        svg=_svg(picture),
        rows="\n".join(_html_row(picture, point) for point in picture.front["front"]),
        hypervolume=said,
        reference=html.escape(json.dumps(picture.front.get("reference"))),
        data=data,
    )


def _html_row(picture: Picture, point: Mapping[str, Any]) -> str:
    m, base = point["metrics"], (picture.front["baseline"] or {"metrics": {}})["metrics"]
    gains = _speedups(picture.comparison, point["trial"])

    def cell(value: float | None, form: str) -> str:
        return "<td class=n>-</td>" if value is None else f"<td class=n>{value:{form}}</td>"

    drop = None if m.get("map50") is None or base.get("map50") is None else m["map50"] - base["map50"]
    return (
        f"<tr><td class=n>{point['trial']}</td><td>{html.escape(recipe_line(point['recipe']))}</td>"
        + cell(m.get("map"), ".3f")
        + cell(m.get("map50"), ".3f")
        + cell(drop, "+.3f")
        + cell(m.get("latency_ms_p50"), ".2f")
        + cell(gains.get("eager"), ".2f")
        + cell(gains.get("onnxruntime"), ".2f")
        + cell(m.get("size_mib"), ".2f")
        + cell(None if m.get("params") is None else m["params"] / 1e6, ".2f")
        + "</tr>"
    )


WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 860, 430, 64, 46, 14, 18


def _svg(picture: Picture) -> str:
    """Draw the plot as SVG; circles carry the trial's number for the script."""
    points = [p for p in picture.points if p["x"] > 0]
    x_name, y_name = (html.escape(name) for name in picture.axes)
    if not points:
        return "<p>no complete trial yet</p>"
    lows, highs = math.log10(min(p["x"] for p in points)), math.log10(max(p["x"] for p in points))
    pad = max(0.05, (highs - lows) * 0.06)
    y_high = max(p["y"] for p in points) * 1.06 or 1.0
    y_low = (
        min(0.0, *(p["y"] for p in points))
        if min(p["y"] for p in points) < y_high * 0.5
        else min(p["y"] for p in points) * 0.95
    )

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - lows + pad) / (highs - lows + 2 * pad)
        up = (y - y_low) / (y_high - y_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">']
    for tick in _log_ticks(10 ** (lows - pad), 10 ** (highs + pad)):
        px, _ = at(tick, y_low)
        parts.append(f'<line x1="{px:.1f}" x2="{px:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class=g />')
        parts.append(f'<text x="{px:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:g}</text>')
    for index in range(6):
        value = y_low + (y_high - y_low) * index / 5
        _, py = at(10**lows, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}" class=g />')
        parts.append(f'<text x="{LEFT - 6}" y="{py + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    floor = (picture.floors or {}).get(picture.axes[1])
    if floor is not None and y_low <= floor <= y_high:
        _, py = at(10**lows, floor)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{py:.1f}" y2="{py:.1f}" class=floor />')
    chosen = sorted((p for p in points if p["chosen"]), key=lambda p: p["x"])
    if chosen:
        steps = [at(chosen[0]["x"], chosen[0]["y"])]
        for point in chosen[1:]:
            px, py = at(point["x"], point["y"])
            steps += [(px, steps[-1][1]), (px, py)]
        parts.append('<polyline class=front points="' + " ".join(f"{a:.1f},{b:.1f}" for a, b in steps) + '"/>')
    for point in points:
        px, py = at(point["x"], point["y"])
        kind = "front" if point["chosen"] and point["kind"] == "other" else point["kind"]
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6" class="p {kind}" data-trial="{point["trial"]}"/>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name} (log)</text>')
    parts.append(f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{y_name}</text></svg>')
    return "".join(parts)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 of every decade that lie in a range."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 20 else (1, 2, 5)
    return [m * 10.0**d for d in decades for m in steps if low <= m * 10.0**d <= high]
