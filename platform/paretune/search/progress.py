"""The progress of a running sweep: its front, failures and busy time, kept up record by record."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.core.baselines import EAGER
from paretune.search.latency_scale import LATENCY, SCALED, LatencyScale
from paretune.search.pareto_front import FrontRules, pareto_front
from paretune.storage.trial_record import Record

DRIFT = 1e-3
"""Change of the scale after which the front is found again from all records, if it depends on the scale."""


class SweepProgress:
    """The front of the trials so far, and what remains to be done.

    A new record is compared with the points of the front only: ratios of latencies do not depend on the scale. The
    front depends on the scale where a latency is constrained, or where older records hold latencies without a duet; it
    is then exact within a thousandth of the latency (`DRIFT`).

    Args:
        judge: objectives and constraints.
        records: of the trials so far, as read from disk.
        comparison: of the front, as ``compare_front`` returns it; None before the end of the sweep.
    """

    def __init__(
        self, judge: FrontRules, records: Sequence[Record] = (), comparison: Mapping[str, Any] | None = None
    ) -> None:
        self.judge = judge
        self._records = {record.number: record for record in records}
        self._comparison = comparison
        self._begin()

    def _begin(self) -> None:
        """Count and place all records."""
        self._scale = LatencyScale(list(self._records.values()), self._comparison)
        self.failed, self.sampled = 0, 0
        self.busy = BusyTime()
        self._depends_on_scale = any(metric.startswith(SCALED) for metric in self.judge.constraints)
        for record in self._records.values():
            self._count(record)
        self._find_front()

    def _count(self, record: Record) -> None:
        self.failed += record.state == "failed"
        if record.origin != "baseline":
            self.sampled += 1
            self.busy.add(record.started, record.finished)
        if record.state == "complete" and not self._scale.known(record):
            self._depends_on_scale = True

    def _find_front(self) -> None:
        """Find the front from all records."""
        self._found_at = self._scale.reference_ms
        complete = [record for record in self._records.values() if record.state == "complete"]
        self._front = self._best([record for record in complete if self.judge.feasible(self._scale.scaled(record))])

    def _best(self, allowed: Sequence[Record]) -> list[Record]:
        """Return the records that no other one dominates."""
        points = [self._scale.scaled(record).metrics for record in allowed]
        return [allowed[i] for i in pareto_front(points, self.judge.objectives)]

    def add(self, record: Record) -> None:
        """Add the record of one more trial; that of a known trial replaces the older one."""
        if record.number in self._records:
            if record != self._records[record.number]:
                self._records[record.number] = record
                self._begin()
            return
        reference = self._scale.reference
        self._records[record.number] = record
        self._scale.add(record)
        self._count(record)
        if self._scale.reference != reference or (self._depends_on_scale and self._drifted):
            self._find_front()
        elif record.state == "complete" and self.judge.feasible(self._scale.scaled(record)):
            self._front = self._best([*self._front, record])

    @property
    def _drifted(self) -> bool:
        now, before = self._scale.reference_ms, self._found_at
        return now != before and (not now or not before or abs(math.log(now / before)) > DRIFT)

    @property
    def done(self) -> int:
        """Return the number of finished trials, failed ones included."""
        return len(self._records)

    @property
    def front(self) -> set[int]:
        """Return the trials on the front."""
        return {record.number for record in self._front}

    def complete(self, most: int) -> list[Record]:
        """Return the newest complete trials, with their latencies on the present scale."""
        numbers = [number for number, record in self._records.items() if record.state == "complete"]
        return [self.record(number) for number in numbers[-most:]]

    @property
    def eager_ms(self) -> float | None:
        """Return the latency of the eager baseline; None if it is not known."""
        return self.record(EAGER).metrics.get(LATENCY) if EAGER in self._records else None

    def record(self, number: int) -> Record:
        """Return the record of a finished trial, with its latency on the present scale."""
        return self._scale.scaled(self._records[number])


class BusyTime:
    """The seconds in which at least one of many spans runs."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._starts: list[float] = []
        self._ends: list[float] = []

    def add(self, start: float, end: float) -> None:
        """Add a span; spans that meet become one."""
        first = after = bisect_left(self._ends, start)
        while after < len(self._starts) and self._starts[after] <= end:
            after += 1
        if after > first:
            start, end = min(start, self._starts[first]), max(end, self._ends[after - 1])
        met = zip(self._starts[first:after], self._ends[first:after], strict=True)
        self.seconds += end - start - sum(b - a for a, b in met)
        self._starts[first:after], self._ends[first:after] = [start], [end]
