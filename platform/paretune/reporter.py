"""What a sweep tells: the terminal while it runs, its front's files, the MLflow log."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune import display
from paretune.errors import UserError
from paretune.folders import Sweep
from paretune.front import Objective, front_object
from paretune.records import Record, read_records


class Reporter:
    """Tells of one sweep. MLflow is a view of the records: losing it loses nothing."""

    def __init__(self, sweep: Sweep) -> None:
        """Nothing is told yet."""
        from paretune.tracking.mlflow import MlflowTracker

        self.sweep = sweep
        self._start = time.monotonic()
        self._done_before = len(read_records(sweep.folder))
        self._tracker = MlflowTracker(sweep.runs, sweep.name, sweep.job.tracking.uri, sweep.job.tracking.experiment)

    def say(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)

    def started(self) -> None:
        """Open the sweep's run in the log, or go on with it."""
        self._tracker.start(log_params(self.sweep))
        self._sync()

    def trial_done(self, record: Record) -> None:
        """Tell of one trial, and bring the log and the front's files up to date."""
        records = read_records(self.sweep.folder)
        job = self.sweep.job
        line = display.trial_line(
            record,
            records,
            budget=job.search.trials,
            objectives=objectives(self.sweep),
            seconds=time.monotonic() - self._start,
            before=self._done_before,
        )
        self.say(line)
        self._sync()

    def finished(self) -> None:
        """Print the front, where its pictures are, and what to type next."""
        self._sync()
        self._tracker.finish()
        print(front_text(self.sweep))

    def _sync(self) -> None:
        records = read_records(self.sweep.folder)
        if not any(r.number == 0 and r.state == "complete" for r in records):
            return
        front = front_of(self.sweep, records)
        files = write_front(self.sweep, front, records)
        self._tracker.sync(records, self.sweep.folder, front, files)


def objectives(sweep: Sweep) -> list[Objective]:
    """Return the sweep's objectives."""
    return [Objective(metric, direction) for metric, direction in sweep.job.objectives.items()]
