"""A sweep while it runs, in lines: for a terminal that is redrawn, for plain output, and in one sentence."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paretune.core.metrics import UNKNOWN, metric_of
from paretune.core.startup import escaped
from paretune.reports.progress_bar import bar, clock
from paretune.reports.sweep_snapshot import RunningStage, RunningTrial, SweepSnapshot, TargetFront, Version
from paretune.reports.terminal import words_left

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDEST = 100
"""Most columns of the view."""
PLOT_HEIGHT = 8
MOST_ROWS, MOST_FAILURES = 8, 3
STAGES = {
    "baseline": "training the baseline",
    "probe": "probing work beside measurements",
    "compare": "comparing the front, interleaved",
    "log": "drawing and logging the last trials",
}
"""Stage of a sweep → what it does; while it searches, its trials say that."""
Line = tuple[str, str]
"""Text and style of a line."""


def sweep_lines(
    snapshot: SweepSnapshot, width: int, height: int | None = None, *, ascii_only: bool = False
) -> list[Line]:
    """Return the view of a sweep as lines, none of them wider than asked for but a command to type.

    Args:
        snapshot: of the sweep.
        width: columns.
        height: most lines; the plot and then the last lines are left out where it is too low. None: as many as needed.
        ascii_only: whether only ASCII is shown.
    """
    width = min(width, WIDEST)
    running = [line for trial in snapshot.running for line in _trial_lines(trial, snapshot.time, width, ascii_only)]
    head = [*_head(snapshot, width, ascii_only), *running]
    plots = [line for front in snapshot.fronts[:1] for line in _plot(front, width, ascii_only)]
    tables = [line for front in snapshot.fronts for line in _table(front, len(snapshot.fronts) > 1, width)]
    failures = _failures(snapshot, width)
    lines = [*head, *failures, *plots, *tables]
    if height is not None and len(lines) > height:
        lines = [*head, *failures, *tables][:height]
    return [(text.replace("→", ">"), style) for text, style in lines] if ascii_only else lines


def sweep_view(snapshot: SweepSnapshot, width: int, height: int | None, *, ascii_only: bool = False) -> RenderableType:
    """Return the view of a sweep for Rich; the arguments are those of `sweep_lines`."""
    from rich.text import Text

    lines = sweep_lines(snapshot, width, height, ascii_only=ascii_only)
    return Text("\n").join(Text(escaped(text), style=style, no_wrap=True, overflow="crop") for text, style in lines)


def print_sweep(snapshot: SweepSnapshot) -> None:
    """Print the view of a sweep once, as wide as the terminal; without colours if the output is none."""
    from paretune.core.console import plain_console

    console = plain_console()
    ascii_only = not console.encoding.startswith("utf")
    console.print(sweep_view(snapshot, console.width, None, ascii_only=ascii_only), soft_wrap=True)


def working_line(snapshot: SweepSnapshot) -> str:
    """Return which trial is in which stage, and the time left, in one line."""
    now, parts = snapshot.time, list[str]()
    if snapshot.stage is not None and snapshot.stage.name in STAGES:
        parts.append(f"{STAGES[snapshot.stage.name]}{_far(snapshot.stage, now)}")
    for trial in snapshot.running:
        stage = "between two stages" if trial.stage is None else f"{trial.stage.name}{_far(trial.stage, now)}"
        parts.append(f"trial {trial.number} in {stage}" if trial.stage else f"trial {trial.number} {stage}")
    return f"working: {'; '.join(parts) or 'no trial runs at the moment'}; {_left(snapshot)}"


def _far(stage: RunningStage, now: float) -> str:
    """Return how far a stage is, and for how long it has run, as the end of a sentence."""
    far = _progress(stage)
    return f"{far and f', {far}'}, for {clock(now - stage.since)}"


def _progress(stage: RunningStage) -> str:
    """Return how far a stage is in words; empty if it has not said so."""
    told = stage.progress
    if told is None:
        return ""
    if told.unit == "images":
        return f"{told.done:g} of {told.of:g} images"
    return f"{told.unit.removesuffix('s')} {min(math.floor(told.done) + 1, told.of):g} of {told.of:g}"


def _left(snapshot: SweepSnapshot) -> str:
    """Return the time left in words, or why it is not known."""
    if snapshot.seconds_left is None:
        return f"time left unknown: {snapshot.left_from}"
    return f"{words_left(snapshot.seconds_left)} ({snapshot.left_from})"


def _wrapped(text: str, width: int, style: str = "") -> list[Line]:
    """Return a sentence in as many lines as it needs; words that are too long, such as paths, are not broken."""
    lines = textwrap.wrap(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [(line, style) for line in lines]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(0, width - 3)]}..."


def _head(snapshot: SweepSnapshot, width: int, ascii_only: bool) -> list[Line]:
    """Return the budget, the state of the sweep, its own stage, and the best version so far."""
    counts = [f"{snapshot.done} of {snapshot.budget} trials done"]
    counts += [f"{snapshot.failed} failed"] if snapshot.failed else []
    counts += [f"{snapshot.stopped_early} stopped early"] if snapshot.stopped_early else []
    counts += [f"{snapshot.paused} paused"] if snapshot.paused else []
    lines = _wrapped(f"{snapshot.name}: {', '.join(counts)}", width, "bold")
    share = snapshot.done / snapshot.budget if snapshot.budget else 1.0
    lines.append((f"{bar(share, width - 5, ascii_only=ascii_only)} {share:4.0%}", "cyan"))
    if snapshot.state == "finished":
        lines += _wrapped("finished", width, "green")
    elif snapshot.state == "stopped":
        lines += [("nothing runs it; to go on:", "yellow"), (snapshot.resume, "yellow")]
    else:
        begun = f"running for {clock(snapshot.time - snapshot.started)}, " if snapshot.started else ""
        lines += _wrapped(f"{begun}{_left(snapshot)}", width)
        if snapshot.state == "unknown":
            lines += _wrapped("whether a process still runs it cannot be found out here", width, "yellow")
        if snapshot.stage is None:
            lines.append(("starting", ""))
        elif snapshot.stage.name in STAGES:
            lines += _stage_lines(STAGES[snapshot.stage.name], snapshot.stage, snapshot.time, width, ascii_only)
    for front in snapshot.fronts:
        best = next((one for one in (*front.versions, *front.others) if one.number == front.best), None)
        where = f" on {front.target}" if len(snapshot.fronts) > 1 else ""
        if best is not None:
            lines += _wrapped(f"{front.claim}{where}: {_figures(best, front)}: {best.recipe}", width, "green")
    return lines


def _figures(version: Version, front: TargetFront) -> str:
    """Return a version's figures in words."""
    words = [f"trial {version.number}"]
    words += [f"{version.gain:.1f}x eager"] if version.gain is not None and version.number else []
    words += [metric_of(front.quality).phrase(version.quality)] if front.quality != front.cost else []
    return ", ".join([*words, metric_of(front.cost).phrase(version.cost)])


def _trial_lines(trial: RunningTrial, now: float, width: int, ascii_only: bool) -> list[Line]:
    """Return a running trial: its recipe, and its stage with a bar."""
    lines = [(_cut(f"trial {trial.number}: {trial.recipe}".removesuffix(": "), width), "")]
    if trial.stage is None:
        return [*lines, (f"  {clock(now - trial.started)} so far", "dim")]
    return [*lines, *_stage_lines(f"  {trial.stage.name}", trial.stage, now, width, ascii_only)]


def _stage_lines(name: str, stage: RunningStage, now: float, width: int, ascii_only: bool) -> list[Line]:
    """Return a stage with its bar, how far it is, and its time, in two lines if one is too narrow."""
    after, share = f"{_progress(stage)} {clock(now - stage.since)}".strip(), stage.share
    if share is None:
        return [(_cut(f"{name} {after}", width), "")]
    room = width - len(name) - len(after) - 2
    if room >= 10:
        return [(f"{name} {bar(share, min(room, 40), ascii_only=ascii_only)} {after}", "")]
    indent = " " * (len(name) - len(name.lstrip()) + 2)
    return [
        (_cut(f"{name} {after}", width), ""),
        (f"{indent}{bar(share, min(width - len(indent), 40), ascii_only=ascii_only)}", ""),
    ]


def _table(front: TargetFront, several: bool, width: int) -> list[Line]:
    """Return the front as a short table."""
    cost, quality = metric_of(front.cost), metric_of(front.quality)
    where = f" on {front.target}" if several else ""
    if not front.versions:
        return []
    wide, dear = max(8, len(quality.column) + 1), max(9, len(cost.column) + 1)
    head = f"{'trial':>5}{'x eager':>8}{quality.column:>{wide}}{cost.column:>{dear}}  recipe, front{where}"
    lines = [(_cut(head, width), "bold")]
    for one in front.versions[:MOST_ROWS]:
        gain = UNKNOWN if one.gain is None else f"{one.gain:.1f}"
        figures = f"{one.number:>5}{gain:>8}{quality.text(one.quality):>{wide}}{cost.text(one.cost):>{dear}}"
        lines.append((_cut(f"{figures}  {one.recipe}", width), ""))
    left = len(front.versions) - MOST_ROWS
    return [*lines, (f"  and {left} more", "dim")] if left > 0 else lines


def _failures(snapshot: SweepSnapshot, width: int) -> list[Line]:
    """Return the newest failures with their reasons."""
    lines = [(_cut(f"trial {one.number} failed: {one.reason}", width), "red") for one in snapshot.failures]
    left = len(lines) - MOST_FAILURES
    return [*lines[-MOST_FAILURES:], (f"  and {left} failures before", "dim")] if left > 0 else lines


def _plot(front: TargetFront, width: int, ascii_only: bool) -> list[Line]:
    """Return the complete versions in a plane of characters, quality over the logarithm of the cost.

    Versions on the front are drawn above others. There is no plot of fewer than two different versions, or where a
    cost is not above 0.
    """
    mark, other, corner, side, floor = "*.+|-" if ascii_only else "●·└│─"
    versions = [(one, mark) for one in front.versions] + [(one, other) for one in front.others]
    points = [
        (math.log(one.cost), one.quality, sign)
        for one, sign in versions
        if one.cost is not None and one.cost > 0 and one.quality is not None
    ]
    xs, ys = sorted(x for x, _, _ in points), sorted(y for _, y, _ in points)
    if front.quality == front.cost or not points or xs[0] == xs[-1] or ys[0] == ys[-1]:
        return []
    cost, quality = metric_of(front.cost), metric_of(front.quality)
    labels = [quality.text(ys[-1]), quality.text(ys[0])]
    edge = max(map(len, [*labels, quality.column]))
    columns = min(width, 72) - edge - 2
    grid = [[" "] * columns for _ in range(PLOT_HEIGHT)]
    for x, y, sign in reversed(points):
        row = round((ys[-1] - y) / (ys[-1] - ys[0]) * (PLOT_HEIGHT - 1))
        grid[row][round((x - xs[0]) / (xs[-1] - xs[0]) * (columns - 1))] = sign
    names = [labels[0], quality.column, *[""] * (PLOT_HEIGHT - 3), labels[1]]
    low, high = cost.text(math.exp(xs[0])), f"{cost.text(math.exp(xs[-1]))} {cost.column}"
    foot = f"{low}{high:>{max(1, columns - len(low))}}"
    rows: Sequence[str] = [f"{name:>{edge}} {side}{''.join(row)}" for name, row in zip(names, grid, strict=True)]
    floors = [f"{'':>{edge}} {corner}{floor * columns}", f"{'':>{edge + 2}}{foot}"]
    return [(line.rstrip(), "") for line in [*rows, *floors]]
