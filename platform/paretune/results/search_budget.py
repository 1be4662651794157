"""The budget of a sweep's search, and when it is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence

from paretune.config.search_settings import Search
from paretune.core.baselines import BASELINES
from paretune.core.counts import counted
from paretune.results.front_summary import judge_of
from paretune.results.sweep_folder import Sweep
from paretune.search.hypervolume_series import flattened, hypervolume_series
from paretune.search.latency_scale import on_one_scale
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import Record

HOUR = 3600.0


class SearchBudget:
    """Budget of one run of a sweep's search, except the number of trials.

    Args:
        sweep: whose search.
        records: of the trials before this run.
        clock: returns seconds since any moment.
    """

    def __init__(self, sweep: Sweep, records: Sequence[Record], clock: Callable[[], float] = time.monotonic) -> None:
        self._sweep, self._search, self._clock = sweep, sweep.job.search, clock
        self._records = {record.number: record for record in records}
        self._before, self._began = busy_seconds(records), clock()
        self._device_seconds = self._seconds_of(records)
        self._flat: bool | None = None
        """Whether the front is flat, for the present records; None while it is not computed."""

    def add(self, record: Record) -> None:
        """Count a new trial."""
        before = [self._records[record.number]] if record.number in self._records else []
        self._device_seconds += self._seconds_of([record]) - self._seconds_of(before)
        self._records[record.number] = record
        self._flat = None

    @property
    def may_end(self) -> bool:
        """Return whether a limit may end the search: both baselines are done."""
        return set(range(len(BASELINES))) <= set(self._records)

    def spent(self) -> str | None:
        """Return why no further trial starts; None if one may, as always before the baselines are done."""
        if not self.may_end:
            return None
        if self._search.hours is not None and self._seconds / HOUR >= self._search.hours:
            return f"search.hours: {self._search.hours:g} h are over"
        device_hours = self._device_seconds / HOUR
        if self._search.device_hours is not None and device_hours >= self._search.device_hours:
            return f"search.device_hours: the trials took {device_hours:.2f} h of {self._search.device_hours:g} h"
        rule = self._search.stop_when_flat
        if rule is not None and self._is_flat():
            last = f"the last {rule.trials} trials" if rule.trials > 1 else "the last trial"
            return f"search.stop_when_flat: {last} raised the hypervolume by less than {rule.gain:.2g} of it"
        return None

    def seconds_left(self) -> float:
        """Return the seconds on the clock that the limits in hours leave; infinite without such a limit.

        Device hours are counted at the mean rate at which the search took them so far.
        """
        left = math.inf if self._search.hours is None else HOUR * self._search.hours - self._seconds
        if self._search.device_hours is not None and self._device_seconds > 0:
            rate = self._device_seconds / max(busy_seconds(self._records.values()), 1e-9)
            left = min(left, (HOUR * self._search.device_hours - self._device_seconds) / rate)
        return max(0.0, left)

    @property
    def _seconds(self) -> float:
        """Return the seconds on the clock that the search has taken, pauses of the sweep not counted."""
        return self._before + self._clock() - self._began

    def _seconds_of(self, records: Iterable[Record]) -> float:
        return device_seconds(records, self._sweep.job.resources.gpu)

    def _is_flat(self) -> bool:
        rule = self._search.stop_when_flat
        if self._flat is None and rule is not None:
            since = max(len(BASELINES), self._sweep.facts.get("extended_at", 0))
            self._flat = True
            for sweep in self._sweep.each_target():  # a front that grows on one target is worth further trials
                records = on_one_scale([on_target(record, sweep.further) for record in self._records.values()])
                series = hypervolume_series(records, judge_of(sweep))
                self._flat &= flattened(series, trials=rule.trials, gain=rule.gain, since=since)
        return bool(self._flat)


def busy_seconds(records: Iterable[Record]) -> float:
    """Return the seconds in which at least one trial ran; pauses of a sweep do not count."""
    busy, until = 0.0, 0.0
    for start, end in sorted((record.started, record.finished) for record in records):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return busy


def device_seconds(records: Iterable[Record], gpus: float = 0) -> float:
    """Return the seconds of all trials together, times the GPUs of one trial if it has any."""
    return sum(sum(record.seconds.values()) for record in records) * (gpus or 1)


def budget_text(search: Search) -> str:
    """Return the budget of a search as text, such as ``24 trials, at most 2 h``."""
    limits = [counted(search.trials, "trial")]
    limits += [] if search.hours is None else [f"at most {search.hours:g} h"]
    limits += [] if search.device_hours is None else [f"at most {search.device_hours:g} h of trials"]
    if (rule := search.stop_when_flat) is not None:
        limits.append(f"until {rule.trials} trials raise the hypervolume by less than {rule.gain:.2g} of it")
    return ", ".join(limits)
