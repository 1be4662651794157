"""MlflowTracker: what a sweep calls to be seen in MLflow; it never fails and never waits for long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.front import Objective
from paretune.hints import command
from paretune.records import Record
from paretune.tracking.client import Place
from paretune.tracking.runs import SweepRuns

PAUSE = 60.0
"""Seconds in which a log that could not be written is left alone: each attempt can take half a minute."""


class MlflowTracker:
    """Keeps one sweep's runs in step with its records.

    When the log cannot be written it says so once and goes on: the records are the truth, and a later
    ``sync`` catches up. One process writes the log of a sweep.

    Args:
        runs: output folder; holds the database unless ``uri`` names a server.
        sweep: name.
        uri: tracking server, or None.
        experiment: name; made if it is not there.
    """

    def __init__(self, runs: Path, sweep: str, uri: str | None, experiment: str) -> None:
        self._place = Place(runs, sweep, uri, experiment)
        self._params: Mapping[str, Any] = {}
        self._started = time.time()
        self._runs: SweepRuns | None = None
        self._not_before = 0.0
        self._warned = False

    def start(self, params: Mapping[str, Any], started: float) -> None:
        """Open the sweep's run, or go on with it.

        Args:
            params: the job, flat.
            started: when the sweep was made, in seconds since 1970.
        """
        self._params, self._started = params, started
        self._not_before = 0.0
        self._safely(lambda runs: runs.resume())

    def sync(
        self,
        records: Sequence[Record],
        sweep_folder: Path,
        front: Mapping[str, Any],
        objectives: Sequence[Objective],
        feasible: Callable[[Record], bool],
        files: Sequence[Path],
    ) -> None:
        """Bring the log up to date; what it has already is left as it is.

        Args:
            records: of all trials so far.
            sweep_folder: what the records' artefact paths are relative to.
            front: as ``front.front_object`` returns it.
            objectives: what the front is made of.
            feasible: whether a record keeps every constraint.
            files: the front's pictures and tables.
        """

        def bring_up_to_date(runs: SweepRuns) -> None:
            runs.log_trials(records, sweep_folder)
            runs.mark_front({point["trial"] for point in front["front"]})
            runs.log_steps(records, front, objectives, feasible)
            runs.log_front_files(files)
            runs.offer_view(objectives)

        self._safely(bring_up_to_date)

    def finish(self) -> None:
        """Mark the sweep's run as finished."""
        self._safely(lambda runs: runs.finish())

    def metrics(self, trial: int, values: Mapping[str, float]) -> None:
        """Add figures that were measured after a trial's record was written."""
        self._safely(lambda runs: runs.add_metrics(trial, values))

    def _safely(self, do: Callable[[SweepRuns], None]) -> None:
        if time.monotonic() < self._not_before:
            return
        try:
            if self._runs is None:
                self._runs = SweepRuns(self._place, self._params, self._started)
            do(self._runs)
        except Exception as error:  # noqa: BLE001 - server, database, disk, migration: nothing of it may end a sweep
            self._runs = None  # what was written is read back at the next attempt
            self._not_before = time.monotonic() + PAUSE
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            again = f"`{command('resume', self._place.sweep, '--runs', self._place.runs)}` logs them"
            print(f"MLflow cannot be written ({reason}); the records are kept, {again}", file=sys.stderr)
        self._warned = True
