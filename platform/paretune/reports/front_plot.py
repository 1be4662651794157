"""The front as a picture: all trials grey, the front as a step line, and both baselines in shapes of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paretune.reports.figures import label, new_figure, plain_axes, save_png

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 440, 62, 48, 16, 20
"""Size and margins of the picture on a page."""
STYLES = {
    "front": ("o", "#1a73e8", "front"),
    "other": ("o", "#a8adb4", "other trials"),
    "unfit": ("o", "#a8adb4", "break a constraint"),
    "eager": ("s", "#b06000", "baseline, eager"),
    "onnxruntime": ("D", "#137333", "baseline, ONNX Runtime fp32"),
}
"""Kind of a trial → marker and colour in the PNG, and its name in the legend."""
LINE, FLOOR = "#1a73e8", "#d93025"


@dataclass(frozen=True)
class PlottedTrial:
    """One trial in the picture."""

    trial: int
    x: float
    """Positive, since the axis is logarithmic."""
    y: float
    kind: str
    """A key of ``STYLES``; ``unfit`` breaks a constraint."""
    chosen: bool
    """True if the trial is on the front; a baseline can be."""
    text: str
    """Lines that the page shows when the mark is pointed at."""
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


def frame_of(
    marks: Sequence[PlottedTrial], names: tuple[str, str], floor: float | None, ceiling: float | None = None
) -> PlotRange:
    """Return the ranges of the axes: all costs, and the qualities of the trials that keep the constraints.

    A collapsed trial would press the front into a line; trials below the range are drawn on its lower edge.
    """
    xs = [mark.x for mark in marks] + ([ceiling] if ceiling is not None and ceiling > 0 else [])
    ys = [mark.y for mark in marks if mark.kind != "unfit"] or [mark.y for mark in marks]
    ys += [floor] if floor is not None else []
    ys += [end for mark in marks if mark.chosen for end in mark.rise or ()]
    pad_y = 0.08 * (max(ys) - min(ys)) or 0.05
    pad_x = (max(xs) / min(xs)) ** 0.06 * 1.02
    return PlotRange((min(xs) / pad_x, max(xs) * pad_x), (min(ys) - pad_y, max(ys) + pad_y), names, floor, ceiling)


def svg_values(marks: Sequence[PlottedTrial], frame: PlotRange) -> dict[str, Any]:
    """Return the values of the template ``front_plot.svg``: every place in its pixels."""

    def across(x: float) -> float:
        share = math.log(x / frame.x[0]) / math.log(frame.x[1] / frame.x[0])
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        share = (max(y, frame.y[0]) - frame.y[0]) / (frame.y[1] - frame.y[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP), 1)

    def place(mark: PlottedTrial) -> dict[str, Any]:
        spread = [across(end) for end in mark.spread] if mark.chosen and mark.spread else None
        rise = [down(end) for end in mark.rise] if mark.chosen and mark.rise else None
        places = {"x": across(mark.x), "y": down(mark.y), "spread": spread, "rise": rise}
        return {**asdict(mark), **places, "below": mark.y < frame.y[0]}

    chosen = sorted((mark for mark in marks if mark.chosen), key=lambda mark: mark.x)
    ceiling = frame.ceiling if frame.ceiling is not None and frame.ceiling > 0 else None
    return {
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "right": WIDTH - RIGHT,
        "top": TOP,
        "bottom": HEIGHT - BOTTOM,
        "names": frame.names,
        "x_ticks": [(f"{tick:g}", across(tick)) for tick in log_ticks(*frame.x)],
        "y_ticks": [(f"{tick:g}", down(tick)) for tick in ticks(*frame.y)],
        "floor": None if frame.floor is None else down(frame.floor),
        "ceiling": None if ceiling is None else across(ceiling),
        "line": [(across(mark.x), down(mark.y)) for mark in chosen],
        "marks": [place(mark) for mark in sorted(marks, key=lambda mark: mark.chosen)],  # the front over the others
    }


def draw_front(title: str, marks: Sequence[PlottedTrial], frame: PlotRange | None, file: Path) -> None:
    """Write the picture as a PNG file; without a frame there is no complete trial yet."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    figure = new_figure(9, 5, dpi=130)
    axes = figure.add_subplot()
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
    save_png(figure, file)


def _draw_marks(axes: Any, marks: Sequence[PlottedTrial], frame: PlotRange) -> None:
    """Draw marks into matplotlib axes; those below the frame become triangles on its edge."""
    chosen = sorted((mark for mark in marks if mark.chosen), key=lambda mark: mark.x)
    axes.step([m.x for m in chosen], [m.y for m in chosen], where="post", c=LINE, lw=1.6, zorder=2)
    for mark in chosen:
        axes.annotate(str(mark.trial), (mark.x, mark.y), xytext=(4, 5), textcoords="offset points", fontsize=8)
        if mark.spread is not None:
            axes.plot(mark.spread, [mark.y, mark.y], c=LINE, lw=3, alpha=0.35, zorder=2)
        if mark.rise is not None:
            axes.plot([mark.x, mark.x], mark.rise, c=LINE, lw=3, alpha=0.35, zorder=2)
    for kind, (marker, colour, name) in STYLES.items():
        inside = [mark for mark in marks if mark.kind == kind and mark.y >= frame.y[0]]
        below = [mark for mark in marks if mark.kind == kind and mark.y < frame.y[0]]
        style = {"s": 46, "c": "white" if kind == "unfit" else colour, "edgecolors": colour, "zorder": 3}
        if inside or below:
            axes.scatter([m.x for m in inside], [m.y for m in inside], marker=marker, label=name, **style)
        axes.scatter([m.x for m in below], [frame.y[0]] * len(below), marker="v", clip_on=False, **style)
    if frame.floor is not None:
        axes.axhline(frame.floor, c=FLOOR, lw=1, ls="--", label="smallest allowed")
    if frame.ceiling is not None:
        axes.axvline(frame.ceiling, c=FLOOR, lw=1, ls="--", label="largest allowed")


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
