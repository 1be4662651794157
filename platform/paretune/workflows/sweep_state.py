"""The records and rungs of a running sweep, of which each look reads only what is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.distributed.tune_schedulers import Scheduler
from paretune.search.latency_scale import LatencyScale
from paretune.storage.trial_events import Event, EventReader
from paretune.storage.trial_record import Record, RecordReader, trial_folder


@dataclass(frozen=True)
class ReachedRung:
    """A rung that a trial has reached."""

    trial: int
    rung: int
    """Number of the rung, from 0."""
    epoch: int
    """Number of the epoch after which it was reached, from 1."""
    time: float
    """Seconds since 1970."""
    metrics: Mapping[str, float]
    """Measured at the rung, and expected ones such as ``expected_latency_ms``."""


class SweepState:
    """State of a sweep on disk, for a process that looks at it many times.

    Args:
        folder: of the sweep.
        scheduler: of the sweep, which knows the rungs.
        view: returns a record as one of the sweep's targets has it.
    """

    def __init__(
        self, folder: Path, scheduler: Scheduler, view: Callable[[Record], Record] = lambda record: record
    ) -> None:
        self.folder = folder
        self._scheduler, self._view = scheduler, view
        self._reader, self._scale = RecordReader(folder), LatencyScale()
        self._records: list[Record] = []
        """Records as they were read, sorted by number."""
        self._scaled: list[Record] = []
        self._events = EventReader(trial_folder(folder, 0).parent)
        self._known: dict[int, dict[str, float]] = {}
        """Trial → metrics that are known before its training ends."""
        self._reached: dict[tuple[int, int], ReachedRung] = {}

    def records(self) -> Sequence[Record]:
        """Return all records with their latencies on one scale, sorted by number.

        Raises:
            UserError: a record is damaged or in a folder without a trial's name.
        """
        if new := [self._view(record) for record in self._reader.new()]:
            self._records = sorted([*self._records, *new], key=lambda record: record.number)
            for record in new:
                self._scale.add(record)
            self._scaled = [self._scale.scaled(record) for record in self._records]
        return self._scaled

    def rungs(self) -> list[ReachedRung]:
        """Return the rungs that trials have reached, in the order of time.

        If a trial reached a rung twice, since its process died in between, the later time is returned.
        """
        for trial, events in self._events.new().items():
            for event in events:
                self._note(trial, event)
        return sorted(self._reached.values(), key=lambda rung: rung.time)

    def _note(self, trial: int, event: Event) -> None:
        known = self._known.setdefault(trial, {})
        if event.kind == "metrics":
            known.update(event.metrics)
        if event.kind != "epoch" or event.epoch is None or event.epochs is None or "map" not in event.metrics:
            return
        rungs = self._scheduler.rungs(event.epochs)
        if event.epoch in rungs:
            rung, metrics = rungs.index(event.epoch), {**known, **event.metrics}
            self._reached[trial, rung] = ReachedRung(trial, rung, event.epoch, event.time, metrics)
