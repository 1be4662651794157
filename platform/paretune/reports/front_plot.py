"""The front as a picture: all trials grey, the front as a step line, both baselines on top in shapes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.metrics import change_in
from paretune.reports.figures import label, new_figure, plain_axes, save_figure

STYLES = {
    "front": ("o", "#1a73e8", "front"),
    "other": ("o", "#a8adb4", "other trials"),
    "broken": ("o", "#a8adb4", "break a constraint"),
    "eager": ("s", "#b06000", "baseline, eager"),
    "onnxruntime": ("D", "#137333", "baseline, ONNX Runtime fp32"),
}
"""Kind of a trial → marker and colour in the PNG, and its name in the legend."""
ORDER = {"other": 3.0, "broken": 2.5, "front": 4.0, "eager": 5.0, "onnxruntime": 5.0}
"""Kind of a trial → its layer: the baselines lie on top."""
LINE, FLOOR = "#1a73e8", "#d93025"
MANY = 300
"""Number of trials above which those that are not on the front are drawn small."""
LABEL_ROOM = (0.04, 0.04)
"""Room of a trial's number, as shares of the axes."""


@dataclass(frozen=True)
class PlottedTrial:
    """One trial in the picture."""

    trial: int
    x: float
    """Positive, since the axis is logarithmic."""
    y: float
    kind: str
    """A key of ``STYLES``; ``broken`` breaks a constraint."""
    chosen: bool
    """True if the trial is on the front; a baseline can be."""
    spread: tuple[float, float] | None = None
    """Interval of x."""
    rise: tuple[float, float] | None = None
    """Interval of y."""


@dataclass(frozen=True)
class PlotRange:
    """The part of the plane that is shown."""

    x: tuple[float, float]
    y: tuple[float, float]
    names: tuple[str, str]
    floor: float | None
    """Smallest y that the constraints allow."""
    ceiling: float | None = None
    """Largest x that the constraints allow."""


def marks_of(data: Mapping[str, Any], target: Mapping[str, Any]) -> list[PlottedTrial]:
    """Return the marks of the complete trials of a target that have both figures of the axes.

    Args:
        data: result of ``page_data.page_data``.
        target: one of its targets.
    """
    x, y = axes_of(data["objectives"])
    rows = (row for row in data["trials"] if row["target"] == target["name"] and row["state"] == "complete")
    return [_mark(row, x, y) for row in rows if y in row["metrics"] and row["metrics"].get(x, 0) > 0]


def axes_of(objectives: Mapping[str, str]) -> tuple[str, str]:
    """Return the metrics of the horizontal (cost) and vertical (quality) axis."""
    names = list(objectives)
    cost = next((name for name in names if objectives[name] == "minimize"), names[0])
    return cost, next((name for name in names if name != cost and objectives[name] == "maximize"), names[-1])


def _mark(row: Mapping[str, Any], cost: str, quality: str) -> PlottedTrial:
    metrics = row["metrics"]
    x, y = metrics[cost], metrics[quality]
    low, high = metrics.get(f"{cost}_low", 0.0), metrics.get(f"{cost}_high", 0.0)
    spread = (low, high) if 0 < low <= high else None
    low, middle, high = change_in(metrics, quality) or (0.0, 0.0, 0.0)
    rise = (y + low - middle, y + high - middle) if low < high else None
    return PlottedTrial(row["number"], x, y, row["kind"], row["front"], spread, rise)


def frame_of(
    marks: Sequence[PlottedTrial], names: tuple[str, str], floor: float | None, ceiling: float | None = None
) -> PlotRange:
    """Return the ranges of the axes: all costs, and the qualities of the trials that keep the constraints.

    A collapsed trial would press the front into a line; trials below the range are drawn on its lower edge.
    """
    xs = [mark.x for mark in marks] + ([ceiling] if ceiling is not None and ceiling > 0 else [])
    ys = [mark.y for mark in marks if mark.kind != "broken"] or [mark.y for mark in marks]
    ys += [floor] if floor is not None else []
    ys += [end for mark in marks if mark.chosen for end in mark.rise or ()]
    pad_y = 0.08 * (max(ys) - min(ys)) or 0.05
    pad_x = (max(xs) / min(xs)) ** 0.06 * 1.02
    return PlotRange((min(xs) / pad_x, max(xs) * pad_x), (min(ys) - pad_y, max(ys) + pad_y), names, floor, ceiling)


def front_pictures(data: Mapping[str, Any], target: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Draw the trials of one target with its front and the baselines once, into files of several formats.

    Args:
        data: result of ``page_data.page_data``.
        target: one of its targets.
        files: ``png`` or ``svg`` → file.
    """
    axes = front_axes()
    plot_front(axes, data, target)
    for form, file in files.items():
        save_figure(axes.figure, file, form)


def front_axes() -> Any:
    """Return the axes of a new figure for a front."""
    return new_figure(9, 5, dpi=130).add_subplot()


def plot_front(axes: Any, data: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Draw the trials of one target with its front and the baselines into matplotlib axes.

    Args:
        axes: without drawings.
        data: result of ``page_data.page_data``.
        target: one of its targets.
    """
    marks, names = marks_of(data, target), axes_of(data["objectives"])
    floor, ceiling = target["floors"].get(names[1]), target["ceilings"].get(names[0])
    frame = frame_of(marks, names, floor, ceiling) if marks else None
    _draw_front(axes, f"{data['sweep']} on {target['name']}", marks, frame)


def drawn_front(title: str, marks: Sequence[PlottedTrial], frame: PlotRange | None) -> Any:
    """Return the picture as a matplotlib figure; without a frame there is no complete trial yet."""
    axes = front_axes()
    _draw_front(axes, title, marks, frame)
    return axes.figure


def _draw_front(axes: Any, title: str, marks: Sequence[PlottedTrial], frame: PlotRange | None) -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axes.set_title(label(title, 100), loc="left", fontsize=12, fontweight="bold")
    plain_axes(axes)
    if frame is not None:
        axes.set_xscale("log")
        axes.set(xlim=frame.x, ylim=frame.y, xlabel=f"{frame.names[0]}, log scale", ylabel=frame.names[1])
        places = log_ticks(*frame.x)
        axes.xaxis.set_major_locator(FixedLocator(places))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{place:g}" for place in places]))
        axes.xaxis.set_minor_locator(NullLocator())
        _draw_marks(axes, marks, frame)
        axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    else:
        axes.text(0.5, 0.5, "no complete trial yet", ha="center", transform=axes.transAxes)


def _draw_marks(axes: Any, marks: Sequence[PlottedTrial], frame: PlotRange) -> None:
    """Draw marks into matplotlib axes; those below the frame become triangles on its edge."""
    chosen = sorted((mark for mark in marks if mark.chosen), key=lambda mark: mark.x)
    axes.step([m.x for m in chosen], [m.y for m in chosen], where="post", c=LINE, lw=1.6, zorder=2)
    _number_marks(axes, chosen, frame)
    for mark in chosen:
        if mark.spread is not None:
            axes.plot(mark.spread, [mark.y, mark.y], c=LINE, lw=3, alpha=0.35, zorder=2)
        if mark.rise is not None:
            axes.plot([mark.x, mark.x], mark.rise, c=LINE, lw=3, alpha=0.35, zorder=2)
    many = len(marks) > MANY
    for kind, (marker, colour, name) in STYLES.items():
        inside = [mark for mark in marks if mark.kind == kind and mark.y >= frame.y[0]]
        below = [mark for mark in marks if mark.kind == kind and mark.y < frame.y[0]]
        quiet = kind in ("other", "broken")
        style = {
            "s": 9 if many and quiet else 46,
            "c": "white" if kind == "broken" else colour,
            "edgecolors": colour if quiet or not many else "white",
            "linewidths": 0.6 if many and quiet else 1.0,
            "zorder": ORDER[kind],
            "rasterized": many and quiet,
        }
        if inside or below:
            axes.scatter([m.x for m in inside], [m.y for m in inside], marker=marker, label=name, **style)
        axes.scatter([m.x for m in below], [frame.y[0]] * len(below), marker="v", clip_on=False, **style)
    if frame.floor is not None:
        axes.axhline(frame.floor, c=FLOOR, lw=1, ls="--", label="smallest allowed")
    if frame.ceiling is not None:
        axes.axvline(frame.ceiling, c=FLOOR, lw=1, ls="--", label="largest allowed")


def _number_marks(axes: Any, chosen: Sequence[PlottedTrial], frame: PlotRange) -> None:
    """Write the numbers of trials beside their marks, left out where they would lie on one another."""
    taken: list[tuple[float, float]] = []
    for mark in chosen:
        across = math.log(mark.x / frame.x[0]) / math.log(frame.x[1] / frame.x[0])
        up = (mark.y - frame.y[0]) / (frame.y[1] - frame.y[0])
        if any(abs(across - x) < LABEL_ROOM[0] and abs(up - y) < LABEL_ROOM[1] for x, y in taken):
            continue
        taken.append((across, up))
        place = {"xytext": (4, 5), "textcoords": "offset points", "fontsize": 8, "zorder": 6}
        axes.annotate(str(mark.trial), (mark.x, mark.y), **place)


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers in a range of a logarithmic axis, denser where the range is narrow."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [round(m * 10.0**d, 12) for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(found) >= 4:
            return found
    return ticks(low, high)


def ticks(low: float, high: float) -> list[float]:
    """Return some five round numbers in a range."""
    from matplotlib.ticker import MaxNLocator

    places = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [round(float(place), 12) for place in places if low <= place <= high]
