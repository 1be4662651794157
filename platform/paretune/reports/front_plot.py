"""The front as a plot: all trials grey, the front a step line, baselines in shapes of their own."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 900, 440, 62, 48, 16, 20
RADIUS = 5.5

STYLES = {
    "other": ("o", "#a8adb4", "other trials"),
    "unfit": ("o", "#a8adb4", "break a constraint"),
    "front": ("o", "#1a73e8", "front"),
    "eager": ("s", "#b06000", "baseline, eager"),
    "onnxruntime": ("D", "#137333", "baseline, ONNX Runtime fp32"),
}
LINE, FLOOR = "#1a73e8", "#d93025"


@dataclass(frozen=True)
class PlottedTrial:
    """One trial in the plot."""

    trial: int
    x: float
    """Positive: the axis is logarithmic."""
    y: float
    kind: str
    """``front``, ``other``, ``unfit`` (a constraint is broken), ``eager`` or ``onnxruntime``."""
    chosen: bool
    """On the front; a baseline can be."""
    text: str
    """What is said when it is pointed at; lines."""
    spread: tuple[float, float] | None = None
    """Interval of x."""
    rise: tuple[float, float] | None = None
    """Interval of y."""


@dataclass(frozen=True)
class PlotRange:
    """What part of the plane is shown."""

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
    """Choose the axes' ranges: all costs; the qualities of trials that keep the constraints.

    One collapsed trial would press the front into a line; what lies below is drawn on the lower edge.
    """
    xs = [mark.x for mark in marks] + ([ceiling] if ceiling is not None and ceiling > 0 else [])
    ys = [mark.y for mark in marks if mark.kind != "unfit"] or [mark.y for mark in marks]
    ys += [floor] if floor is not None else []
    ys += [end for mark in marks if mark.chosen for end in mark.rise or ()]
    pad_y = 0.08 * (max(ys) - min(ys)) or 0.05
    pad_x = (max(xs) / min(xs)) ** 0.06 * 1.02
    return PlotRange((min(xs) / pad_x, max(xs) * pad_x), (min(ys) - pad_y, max(ys) + pad_y), names, floor, ceiling)


def svg(marks: Sequence[PlottedTrial], frame: PlotRange) -> str:
    """Draw marks; every one carries its text in ``data-say`` for the page's script."""

    def at(x: float, y: float) -> tuple[float, float]:
        share = math.log(x / frame.x[0]) / math.log(frame.x[1] / frame.x[0])
        up = (max(y, frame.y[0]) - frame.y[0]) / (frame.y[1] - frame.y[0])
        return LEFT + share * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - BOTTOM - TOP)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="the front">']
    parts += _grid(frame, at)
    chosen = sorted((mark for mark in marks if mark.chosen), key=lambda mark: mark.x)
    parts += _steps([at(mark.x, mark.y) for mark in chosen])
    for mark in sorted(marks, key=lambda mark: mark.chosen):  # the front is drawn over the others
        parts.append(_shape(mark, at, below=mark.y < frame.y[0]))
    return "".join([*parts, "</svg>"])


def _grid(frame: PlotRange, at: Callable[[float, float], tuple[float, float]]) -> list[str]:
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in log_ticks(*frame.x):
        px, _ = at(tick, frame.y[0])
        parts.append(f'<path d="M{px:.1f} {TOP}V{low}" class="g"/>')
        parts.append(f'<text x="{px:.1f}" y="{low + 17}" text-anchor="middle">{tick:g}</text>')
    for tick in ticks(*frame.y):
        _, py = at(frame.x[0], tick)
        parts.append(f'<path d="M{LEFT} {py:.1f}H{right}" class="g"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{py + 4:.1f}" text-anchor="end">{tick:g}</text>')
    if frame.floor is not None:
        _, py = at(frame.x[0], frame.floor)
        parts.append(f'<path d="M{LEFT} {py:.1f}H{right}" class="floor"/>')
        parts.append(f'<text x="{right}" y="{py - 5:.1f}" text-anchor="end" class="floor">smallest allowed</text>')
    if frame.ceiling is not None and frame.ceiling > 0:
        px, _ = at(frame.ceiling, frame.y[0])
        parts.append(f'<path d="M{px:.1f} {TOP}V{low}" class="floor"/>')
        parts.append(f'<text x="{px - 6:.1f}" y="{TOP + 12}" text-anchor="end" class="floor">largest allowed</text>')
    x_name, y_name = (html.escape(name) for name in frame.names)
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{x_name}, log scale</text>')
    parts.append(f'<text transform="translate(14 {low / 2}) rotate(-90)" text-anchor="middle">{y_name}</text>')
    return parts


def _steps(places: Sequence[tuple[float, float]]) -> list[str]:
    if not places:
        return []
    path = f"M{places[0][0]:.1f} {places[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])
    return [f'<path d="{path}" class="line"/>']


def _shape(mark: PlottedTrial, at: Callable[[float, float], tuple[float, float]], *, below: bool) -> str:
    x, y = at(mark.x, mark.y)
    r = RADIUS
    if below:
        shape = f'<path d="M{x - r:.1f} {y - 9:.1f}h{2 * r}l{-r} 8z"/>'
    elif mark.kind == "eager":
        shape = f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r}" height="{2 * r}"/>'
    elif mark.kind == "onnxruntime":
        shape = f'<path d="M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z"/>'
    else:
        shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    more = ""
    if mark.chosen:
        if mark.spread is not None:
            (low, _), (high, _) = at(mark.spread[0], mark.y), at(mark.spread[1], mark.y)
            more += f'<path d="M{low:.1f} {y:.1f}H{high:.1f}" class="spread"/>'
        if mark.rise is not None:
            (_, low), (_, high) = (at(mark.x, end) for end in mark.rise)
            more += f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" class="spread"/>'
        more += f'<text x="{x + 7:.1f}" y="{y - 7:.1f}">{mark.trial}</text>'
    said = html.escape(mark.text).replace("\n", "&#10;")
    kind = f"{mark.kind} chosen" if mark.chosen else mark.kind
    return f'<g class="m {kind}" tabindex="0" data-trial="{mark.trial}" data-say="{said}">{more}{shape}</g>'


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers of a range on a logarithmic axis, denser where it is narrow."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1.0,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [round(m * 10.0**d, 12) for d in decades for m in steps if low <= m * 10.0**d <= high]
        if len(found) >= 4:
            return found
    return ticks(low, high)


def ticks(low: float, high: float) -> list[float]:
    """Return some five round numbers of a range."""
    size = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(size))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= size * 0.999)
    return [round(n * step, 12) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def draw(axes: Any, marks: Sequence[PlottedTrial], frame: PlotRange) -> None:
    """Draw marks into matplotlib axes; what lies below the frame becomes a triangle on its edge."""
    chosen = sorted((mark for mark in marks if mark.chosen), key=lambda mark: mark.x)
    axes.step([m.x for m in chosen], [m.y for m in chosen], where="post", c=LINE, lw=1.6, zorder=2)
    for mark in chosen:
        axes.annotate(str(mark.trial), (mark.x, mark.y), xytext=(4, 5), textcoords="offset points", fontsize=8)
        if mark.spread is not None:
            axes.plot(mark.spread, [mark.y, mark.y], c=LINE, lw=3, alpha=0.35, zorder=2)
        if mark.rise is not None:
            axes.plot([mark.x, mark.x], mark.rise, c=LINE, lw=3, alpha=0.35, zorder=2)
    for kind, (marker, colour, label) in STYLES.items():
        mine = [mark for mark in marks if mark.kind == kind and mark.y >= frame.y[0]]
        below = [mark for mark in marks if mark.kind == kind and mark.y < frame.y[0]]
        style = {"s": 46, "c": "white" if kind == "unfit" else colour, "edgecolors": colour, "zorder": 3}
        if mine or below:
            axes.scatter([m.x for m in mine], [m.y for m in mine], marker=marker, label=label, **style)
        edge = [frame.y[0]] * len(below)
        axes.scatter([m.x for m in below], edge, marker="v", clip_on=False, **style)
    if frame.floor is not None:
        axes.axhline(frame.floor, c=FLOOR, lw=1, ls="--", label="smallest allowed")
    if frame.ceiling is not None:
        axes.axvline(frame.ceiling, c=FLOOR, lw=1, ls="--", label="largest allowed")
