"""Growth of a front's hypervolume with the compute that its trials took."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paretune.core.baselines import EAGER
from paretune.search.pareto_front import FrontRules, decides, hypervolume_2d, no_hypervolume
from paretune.storage.trial_record import Record


@dataclass(frozen=True)
class HypervolumePoint:
    """Hypervolume of the front after one trial."""

    trial: int
    seconds: float
    """Seconds of all trials up to this one on the clock, failed ones included; trials at the same time count each."""
    hypervolume: float


def hypervolume_series(
    records: Sequence[Record], judge: FrontRules, comparison: Mapping[str, Any] | None = None
) -> list[HypervolumePoint]:
    """Return the hypervolume after each trial, in the order in which the trials ended.

    The latencies are those known at the end, so the series never falls, and its last value is the hypervolume of the
    published front. The training of the baseline and the comparison of the front are not in the seconds.

    Args:
        records: of all trials, on one scale.
        judge: objectives and constraints.
        comparison: of the front. If it decides, only trials that it measured add to the hypervolume.

    Returns:
        A point for each trial; empty if the objectives have no hypervolume or the eager baseline is not known.
    """
    eager = next((r for r in records if r.number == EAGER and r.state == "complete"), None)
    if eager is None or no_hypervolume(judge.objectives, eager.metrics) is not None:
        return []
    base = -judge.cost.gain(eager.metrics)
    compared: Collection[str] | None = None
    if comparison is not None and decides(comparison, records, judge):
        compared = comparison["latencies"]
    series, seconds, area = list[HypervolumePoint](), 0.0, 0.0
    corners: list[tuple[float, float]] = []
    for record in sorted(records, key=lambda one: (one.finished, one.number)):
        seconds += sum(record.seconds.values())
        counts = record.state == "complete" and (compared is None or str(record.number) in compared)
        corner = _corner(record, judge, base) if counts and judge.feasible(record) else None
        if corner is not None and not any(x >= corner[0] and y >= corner[1] for x, y in corners):
            corners = [(x, y) for x, y in corners if x > corner[0] or y > corner[1]] + [corner]
            area = hypervolume_2d(corners, (0.0, 0.0))
        series.append(HypervolumePoint(record.number, seconds, area))
    return series


def _corner(record: Record, judge: FrontRules, base: float) -> tuple[float, float] | None:
    """Return quality and log(baseline's cost / cost) of a record; None if one is not known or adds nothing."""
    quality, cost = judge.quality.gain(record.metrics), -judge.cost.gain(record.metrics)
    if not cost > 0 or math.isnan(quality):
        return None
    saved = math.log(base / cost)
    return (quality, saved) if quality > 0 and saved > 0 else None


def flattened(series: Sequence[HypervolumePoint], *, trials: int, gain: float, since: int = 0) -> bool:
    """Return whether the last trials raised the hypervolume by less than a share of it.

    Args:
        series: in the order in which the trials ended.
        trials: number of last trials.
        gain: smallest share of the present hypervolume that counts as growth.
        since: number of first points that are not among the last trials.
    """
    before = len(series) - trials
    if before < max(1, since) or series[-1].hypervolume <= 0:
        return False
    return series[-1].hypervolume - series[before - 1].hypervolume < gain * series[-1].hypervolume


def series_tree(series: Sequence[HypervolumePoint]) -> list[dict[str, Any]]:
    """Return a series as plain data."""
    return [asdict(point) for point in series]


def series_csv(series: Sequence[Mapping[str, Any]]) -> str:
    """Return a series (`series_tree`) as CSV, with a row for each trial."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, ("trial", "seconds", "hypervolume"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(series)
    return buffer.getvalue()


def growth_line(series: Sequence[Mapping[str, Any]]) -> str:
    """Return a line on when a series (`series_tree`) reached 99 % of its last value; empty if it never rose."""
    if not series or not series[-1]["hypervolume"]:
        return ""
    place = next(i for i, one in enumerate(series) if one["hypervolume"] >= 0.99 * series[-1]["hypervolume"])
    reached, last = (f"{series[at]['seconds'] / 3600:.2f} h" for at in (place, -1))
    return f"99 % of the hypervolume after {place + 1} of {len(series)} trials ({reached} of {last} of trials)"
