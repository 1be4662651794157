"""Hypervolume over the wall time of a run, when a curve reaches a value, and the clock of a run."""

from __future__ import annotations

import csv
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from figures import Figures, beside

from paretune.search.pareto_front import hypervolume_2d
from paretune.storage.atomic_files import write_text

SCRIPT, OURS = "script", "paretune"
"""Names of the runs."""
SHARE = 1 / 3
"""Largest share of the script's wall time after which Paretune may reach the script's final hypervolume."""
NEARLY = 0.99
"""Share of a hypervolume that versions measured twice may miss by the noise of latencies alone."""
BEAT = 1.0
"""Seconds after which a running clock is written again."""


@dataclass(frozen=True)
class Point:
    """A finished version of a run."""

    name: str
    seconds: float
    """Wall time of the run at which it was finished."""
    quality: float
    cost: float
    """Latency as a share of the reference's."""


@dataclass(frozen=True)
class CurvePoint:
    """Hypervolume of a run once a version was finished."""

    name: str
    seconds: float
    hypervolume: float


def curve_of(points: Sequence[Point], base_cost: float) -> list[CurvePoint]:
    """Return the hypervolume after each version, in the order in which they were finished.

    It is that of Paretune's fronts: quality against log(base cost / cost), from no quality and the base cost.

    Args:
        points: that keep the constraints.
        base_cost: of the eager baseline.
    """
    corners, curve = list[tuple[float, float]](), list[CurvePoint]()
    for point in sorted(points, key=lambda one: one.seconds):
        corners.append((point.quality, math.log(base_cost / point.cost)))
        curve.append(CurvePoint(point.name, point.seconds, hypervolume_2d(corners, (0.0, 0.0))))
    return curve


def reached(curve: Sequence[CurvePoint], hypervolume: float) -> float | None:
    """Return the wall time at which a curve has a hypervolume; None if it never has."""
    return next((point.seconds for point in curve if point.hypervolume >= hypervolume), None)


def last_volume(curve: Sequence[CurvePoint]) -> float:
    """Return the hypervolume at the end; 0 without a version."""
    return curve[-1].hypervolume if curve else 0.0


def add_times(curves: Mapping[str, Sequence[CurvePoint]], seconds: Mapping[str, float], figures: Figures) -> None:
    """Add when each run reaches the script's final hypervolume; a run that never does has no figure, and a reason.

    Args:
        curves: of each run.
        seconds: wall time of each run.
        figures: of the benchmark.
    """
    wanted, whole = last_volume(curves[SCRIPT]), seconds[SCRIPT]
    for run, curve in curves.items():
        moment = reached(curve, wanted)
        title = f"{run}: minutes to the script's final hypervolume"
        figures.add(title, None if moment is None else moment / 60, "min")
    for title, volume, promised in (
        (f"{OURS}: these minutes, of the script's minutes on the clock", wanted, {"at_most": SHARE}),
        (f"{OURS}: likewise to {NEARLY:.0%} of that hypervolume", NEARLY * wanted, {}),
    ):
        moment = reached(curves[OURS], volume)
        figures.add(title, None if moment is None else moment / whole, **promised)
    last, why = last_volume(curves[OURS]), None
    if last < wanted:
        why = f"Paretune ends at hypervolume {last:.4f}, the script at {wanted:.4f}"
        print(f"never reached: {why}", flush=True)
    figures.more["never_reached"] = why


def write_csv(file: Path, curves: Mapping[str, Sequence[CurvePoint]]) -> None:
    """Write curves, with a row for each version."""
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(("run", "version", "seconds", "hypervolume"))
        for run, curve in curves.items():
            writer.writerows((run, point.name, round(point.seconds, 1), point.hypervolume) for point in curve)


def draw(file: Path, curves: Mapping[str, Sequence[CurvePoint]], seconds: Mapping[str, float], title: str) -> None:
    """Draw curves as steps, each to the end of its run.

    Args:
        file: PNG.
        curves: of each run.
        seconds: wall time of each run.
        title: of the picture.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for run, curve in curves.items():
        times = [0.0, *(point.seconds for point in curve), seconds[run]]
        volumes = [0.0, *(point.hypervolume for point in curve), last_volume(curve)]
        axes.step([time / 60 for time in times], volumes, where="post", label=run)
    axes.set(xlabel="minutes on the clock", ylabel="hypervolume", title=title)
    axes.legend(loc="lower right")
    figure.savefig(file, dpi=120)


class Clock:
    """Wall time of a run that may be interrupted: only the time in which it ran counts.

    Args:
        file: JSON with ``[begin, last moment]`` of each attempt, in seconds since 1970.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.attempts: list[list[float]] = json.loads(file.read_text()) if file.is_file() else []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the block, also if this process is killed in it."""
        self.attempts.append([time.time(), time.time()])

        def beat(ended: threading.Event) -> None:
            while not ended.wait(BEAT):
                self._note()

        try:
            with beside(beat):
                yield
        finally:
            self._note()

    def _note(self) -> None:
        self.attempts[-1][1] = time.time()
        write_text(self._file, json.dumps(self.attempts))

    def until(self, moment: float) -> float:
        """Return the seconds that the run had taken at a moment, in seconds since 1970."""
        return sum(max(0.0, min(end, moment) - begin) for begin, end in self.attempts)

    @property
    def seconds(self) -> float:
        """Return the seconds of all attempts."""
        return self.until(math.inf)
