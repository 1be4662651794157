"""The latencies of all trials of a sweep on one scale: each is a ratio to a reference times the reference's latency.

Every trial is measured in a duet (`profiling/latency/duet.py`), which leaves in its record (``facts["duet"]``) a ratio
and how long the reference took in those seconds. The reference's latency is the median over all duets, and so becomes
known better with each trial, while ratios are never of two different minutes. What a comparison of the front has
measured interleaved replaces the ratios of its trials.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from paretune.storage.trial_record import Record

LATENCY, NETWORK = "latency_ms", "network_ms"
SCALED = (LATENCY, NETWORK)
"""Metrics on the scale; the ends of their 95 % intervals are ``NAME_low`` and ``NAME_high``."""
BEFORE = {LATENCY: "latency_ms_p50", NETWORK: "network_ms_p50"}
"""Metric on the scale → metric in its place in records of versions without duets."""
PARTS = {LATENCY: "", NETWORK: "network_"}
"""Metric on the scale → prefix of its facts in a duet."""


@dataclass(frozen=True)
class _Edge:
    """One trial's latency as a share of another's, as natural logarithms."""

    trial: int
    reference: int
    ratio: float
    low: float
    high: float
    reference_ms: float
    calm: bool


def on_one_scale(records: Sequence[Record], comparison: Mapping[str, Any] | None = None) -> list[Record]:
    """Return records whose metrics hold ``latency_ms`` and ``network_ms``, with intervals, all on one scale.

    Args:
        records: of all trials, as read from disk.
        comparison: of the front, as ``compare_front`` returns it; None before the end of the sweep.
    """
    scaled = list(records)
    for metric in SCALED:
        known = _latencies(metric, records, comparison)
        scaled = [_with(record, metric, known.get(record.number)) for record in scaled]
    return scaled


def reference_of(records: Sequence[Record], comparison: Mapping[str, Any] | None = None) -> int | None:
    """Return the trial that most others were measured beside; None if there is no duet."""
    if comparison is not None and comparison.get("reference") is not None:
        return int(comparison["reference"])
    counted = Counter(edge.reference for edge in _edges(LATENCY, records))
    return max(counted, key=lambda number: (counted[number], number), default=None)


def _latencies(
    metric: str, records: Sequence[Record], comparison: Mapping[str, Any] | None
) -> dict[int, tuple[float, float, float]]:
    """Return for each trial the low end, the latency and the high end, in milliseconds."""
    root = reference_of(records, comparison)
    if root is None:
        return {}
    compared = _compared(metric, comparison)
    edges = [edge for edge in _edges(metric, records) if edge.trial not in compared or edge.reference == edge.trial]
    levels = _levels(root, [*compared.values(), *edges])
    scale = _scale([*_edges(metric, records), *list(compared.values())[:1]], levels)
    if scale is None:
        return {}
    return {
        trial: (math.exp(scale + low), math.exp(scale + level), math.exp(scale + high))
        for trial, (low, level, high) in levels.items()
    }


def _edges(metric: str, records: Sequence[Record]) -> list[_Edge]:
    """Return the duets of records."""
    return [_edge(metric, record.number, duet) for record in records if (duet := record.facts.get("duet"))]


def _compared(metric: str, comparison: Mapping[str, Any] | None) -> dict[int, _Edge]:
    """Return the trials of a comparison, each against its reference."""
    if comparison is None or comparison.get("reference") is None:
        return {}
    shared = {name: comparison[name] for name in ("reference", "reference_ms", "reference_network_ms", "calm")}
    return {int(trial): _edge(metric, int(trial), {**shared, **row}) for trial, row in comparison["latencies"].items()}


def _edge(metric: str, trial: int, duet: Mapping[str, Any]) -> _Edge:
    """Return one metric of a duet, or of a row of a comparison."""
    part = PARTS[metric]
    ratio, low, high = (math.log(duet[f"{part}{name}"]) for name in ("ratio", "low", "high"))
    reference_ms = math.log(duet[f"reference_{part}ms"])
    return _Edge(trial, int(duet["reference"]), ratio, low, high, reference_ms, bool(duet["calm"]))


def _levels(root: int, edges: Sequence[_Edge]) -> dict[int, tuple[float, float, float]]:
    """Return (low end, level, high end) above the root's level for each trial that duets connect to the root."""
    found = {root: (0.0, 0.0, 0.0)}
    left = [edge for edge in edges if edge.trial != edge.reference]
    while True:
        before = len(found)
        for edge in left:
            if edge.reference in found and edge.trial not in found:
                base = found[edge.reference][1]
                found[edge.trial] = (base + edge.low, base + edge.ratio, base + edge.high)
            elif edge.trial in found and edge.reference not in found:
                base = found[edge.trial][1]
                found[edge.reference] = (base - edge.high, base - edge.ratio, base - edge.low)
        if len(found) == before:
            return found


def _scale(edges: Sequence[_Edge], levels: Mapping[int, tuple[float, float, float]]) -> float | None:
    """Return the logarithm of the root's latency: the median over undisturbed duets, or over all if none is."""
    seen = [(edge.reference_ms - levels[edge.reference][1], edge.calm) for edge in edges if edge.reference in levels]
    calm = [value for value, undisturbed in seen if undisturbed]
    return median(calm or [value for value, _ in seen]) if seen else None


def _with(record: Record, metric: str, known: tuple[float, float, float] | None) -> Record:
    """Return a record with a latency and its interval, or with the one that an older version measured."""
    if record.state != "complete":
        return record
    if known is None:
        names = {
            BEFORE[metric]: metric,
            f"{BEFORE[metric]}_low": f"{metric}_low",
            f"{BEFORE[metric]}_high": f"{metric}_high",
        }
        stand_in = {new: record.metrics[old] for old, new in names.items() if old in record.metrics}
        return replace(record, metrics={**stand_in, **record.metrics})
    low, middle, high = known
    ends = {f"{metric}_low": low, metric: middle, f"{metric}_high": high}
    return replace(record, metrics={**record.metrics, **ends})
