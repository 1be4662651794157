"""The latencies of all trials of a sweep on one scale: each is a ratio to a reference times the reference's latency.

Every trial is measured in a duet (`profiling/latency/duet.py`), which leaves in its record (``facts["duet"]``) a ratio
and how long the reference took in those seconds. The reference's latency is the median over all duets, and so becomes
known better with each trial, while ratios are never of two different minutes. What a comparison of the front has
measured interleaved replaces the ratios of its trials.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paretune.storage.trial_record import Record, RecordReader

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


class LatencyScale:
    """The latencies of a sweep on one scale, which grows record by record.

    Args:
        records: of the trials so far, as read from disk.
        comparison: of the front, as ``compare_front`` returns it; None before the end of the sweep.
    """

    def __init__(self, records: Sequence[Record] = (), comparison: Mapping[str, Any] | None = None) -> None:
        self._comparison = comparison
        self._measured: list[tuple[int, Mapping[str, Any]]] = []
        """(trial, duet) of the trials that have one."""
        self._references: Counter[int] = Counter()
        self.reference: int | None = None
        """Trial that the latencies are ratios to; None if there is no duet."""
        self._metrics: dict[str, _MetricScale] = {}
        self._extend(records)

    def add(self, record: Record) -> None:
        """Add the record of one more trial."""
        self._extend([record])

    def _extend(self, records: Sequence[Record]) -> None:
        new = [(record.number, duet) for record in records if (duet := record.facts.get("duet"))]
        self._measured += new
        self._references.update(int(duet["reference"]) for _, duet in new)
        reference = _reference_of(self._references, self._comparison)
        if reference != self.reference:
            self.reference, new = reference, self._measured
            self._metrics = {} if reference is None else {metric: self._begun(metric, reference) for metric in SCALED}
        for metric, scale in self._metrics.items():
            for trial, duet in new:
                scale.add(_edge(metric, trial, duet))

    def _begun(self, metric: str, reference: int) -> _MetricScale:
        return _MetricScale(reference, _compared(metric, self._comparison))

    def scaled(self, record: Record) -> Record:
        """Return a record whose metrics hold ``latency_ms`` and ``network_ms``, with intervals."""
        for metric in SCALED:
            scale = self._metrics.get(metric)
            record = _with(record, metric, None if scale is None else scale.latency(record.number))
        return record

    def known(self, record: Record) -> bool:
        """Return whether the latency of a record is on the scale."""
        return LATENCY in self._metrics and self._metrics[LATENCY].latency(record.number) is not None

    @property
    def reference_ms(self) -> float | None:
        """Return the latency of the reference in milliseconds; None if it is not known."""
        level = self._metrics[LATENCY].level if LATENCY in self._metrics else None
        return None if level is None else math.exp(level)


class FolderScale:
    """The latency scale of a sweep on disk, for a process that adds trials to it; it reads each record once.

    Args:
        sweep_folder: folder of the sweep.
        view: returns a record on disk as one target of the sweep has it.
    """

    def __init__(self, sweep_folder: Path, view: Callable[[Record], Record] = lambda record: record) -> None:
        self._folder, self._view = sweep_folder, view
        self._begin()

    def _begin(self) -> None:
        self._reader, self._scale = RecordReader(self._folder), LatencyScale()
        self._added: set[int] = set()

    def scaled(self, record: Record) -> Record:
        """Return a new record with its latency on the scale of all records on disk and itself."""
        if record.number in self._added:  # the trial is run again
            self._begin()
        for one in [*map(self._view, self._reader.new()), record]:
            if one.number not in self._added:
                self._added.add(one.number)
                self._scale.add(one)
        return self._scale.scaled(record)


class _MetricScale:
    """One metric of the trials that duets connect to a root.

    Args:
        root: trial whose level is 0.
        compared: of the trials of a comparison, whose duets do not count.
    """

    def __init__(self, root: int, compared: Mapping[int, _Edge]) -> None:
        self._compared = compared
        self._levels: dict[int, tuple[float, float, float]] = {root: (0.0, 0.0, 0.0)}
        """Trial → (low end, level, high end) above the root's level."""
        self._unconnected: list[_Edge] = []
        self._unplaced: dict[int, list[_Edge]] = {}
        """Reference without a level → the duets with it."""
        self._seen: list[float] = []
        """Sorted logarithms of the root's latency, one of each duet."""
        self._calm: list[float] = []
        """Those of the undisturbed duets."""
        for edge in compared.values():
            self._connect(edge)
        for edge in list(compared.values())[:1]:
            self._place(edge)

    def add(self, edge: _Edge) -> None:
        """Add a duet."""
        if edge.trial not in self._compared or edge.reference == edge.trial:
            self._connect(edge)
        self._place(edge)

    @property
    def level(self) -> float | None:
        """Return the logarithm of the root's latency: the median over undisturbed duets, or over all if none is."""
        seen = self._calm or self._seen
        return (seen[(len(seen) - 1) // 2] + seen[len(seen) // 2]) / 2 if seen else None

    def latency(self, trial: int) -> tuple[float, float, float] | None:
        """Return the low end, the latency and the high end in milliseconds; None if they are not known."""
        scale, found = self.level, self._levels.get(trial)
        if scale is None or found is None:
            return None
        low, level, high = found
        return math.exp(scale + low), math.exp(scale + level), math.exp(scale + high)

    def _connect(self, edge: _Edge) -> None:
        """Find the level of a trial from its duet, and the levels that were waiting for it."""
        if edge.trial == edge.reference:
            return
        self._unconnected.append(edge)
        new = True
        while new and self._unconnected:
            new = False
            for waiting in self._unconnected:
                new |= self._reach(waiting)
            levels = self._levels
            self._unconnected = [one for one in self._unconnected if one.trial not in levels]

    def _reach(self, edge: _Edge) -> bool:
        """Return whether a duet gave a trial its level."""
        levels = self._levels
        if edge.reference in levels and edge.trial not in levels:
            base, reached = levels[edge.reference][1], edge.trial
            levels[reached] = (base + edge.low, base + edge.ratio, base + edge.high)
        elif edge.trial in levels and edge.reference not in levels:
            base, reached = levels[edge.trial][1], edge.reference
            levels[reached] = (base - edge.high, base - edge.ratio, base - edge.low)
        else:
            return False
        for waiting in self._unplaced.pop(reached, ()):
            self._place(waiting)
        return True

    def _place(self, edge: _Edge) -> None:
        """Add what a duet says of the root's latency, now or once its reference has a level."""
        level = self._levels.get(edge.reference)
        if level is None:
            self._unplaced.setdefault(edge.reference, []).append(edge)
            return
        insort(self._seen, edge.reference_ms - level[1])
        if edge.calm:
            insort(self._calm, edge.reference_ms - level[1])


def on_one_scale(records: Sequence[Record], comparison: Mapping[str, Any] | None = None) -> list[Record]:
    """Return records whose metrics hold ``latency_ms`` and ``network_ms``, with intervals, all on one scale.

    Args:
        records: of all trials, as read from disk.
        comparison: of the front, as ``compare_front`` returns it; None before the end of the sweep.
    """
    scale = LatencyScale(records, comparison)
    return [scale.scaled(record) for record in records]


def reference_of(records: Sequence[Record], comparison: Mapping[str, Any] | None = None) -> int | None:
    """Return the trial that most others were measured beside; None if there is no duet."""
    return LatencyScale(records, comparison).reference


def _reference_of(counted: Counter[int], comparison: Mapping[str, Any] | None) -> int | None:
    if comparison is not None and comparison.get("reference") is not None:
        return int(comparison["reference"])
    return max(counted, key=lambda number: (counted[number], number), default=None)


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
