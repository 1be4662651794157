"""MlflowTracker: what a sweep calls to be seen in MLflow; a log that fails never ends it, and never holds it up."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.hints import command
from paretune.search.pareto_front import FrontRules
from paretune.storage.trial_record import Record
from paretune.tracking.mlflow_client import LogPlace
from paretune.tracking.sweep_runs import SweepRuns

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
        self._place = LogPlace(runs, sweep, uri, experiment)
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
        judge: FrontRules,
        files: Sequence[Path],
    ) -> None:
        """Bring the log up to date; what it has already is left as it is.

        Args:
            records: of all trials so far.
            sweep_folder: what the records' artefact paths are relative to.
            front: as ``front.front_object`` returns it.
            judge: objectives and constraints.
            files: the front's pictures and tables.
        """

        def bring_up_to_date(runs: SweepRuns) -> None:
            runs.log_trials(records, sweep_folder)
            runs.mark_front({point["trial"] for point in front["front"]})
            runs.log_steps(records, front, judge)
            runs.log_front_files(files)
            runs.offer_view(judge.objectives)

        self._safely(bring_up_to_date)

    def finish(self) -> None:
        """Mark the sweep's run as finished."""
        self._safely(lambda runs: runs.finish())

    def compared(self, records: Sequence[Record], front: Mapping[str, Any], comparison: Mapping[str, Any]) -> None:
        """Log what the comparison of the front has decided.

        Args:
            records: of all trials, on its scale.
            front: as ``front.front_object`` returns it.
            comparison: as ``finalists.compare_front`` returns it.
        """
        self._safely(lambda runs: runs.log_comparison(records, front, comparison))

    def _safely(self, do: Callable[[SweepRuns], None]) -> None:
        """Write to the log; what server, database, migration or disk raise is told, and ends no sweep."""
        if time.monotonic() < self._not_before:
            return
        try:
            if self._runs is None:
                self._runs = SweepRuns(self._place, self._params, self._started)
            do(self._runs)
        except Exception as error:
            if _is_a_bug(error):
                raise
            self._runs = None  # what was written is read back at the next attempt
            self._not_before = time.monotonic() + PAUSE
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            again = f"`{command('resume', self._place.sweep, '--runs', self._place.runs)}` logs them"
            print(f"MLflow cannot be written ({reason}); the records are kept, {again}", file=sys.stderr)
        self._warned = True


def _is_a_bug(error: Exception) -> bool:
    """Tell whether an error is a mistake in this package, not MLflow's, its libraries' or the disk's.

    Whatever MLflow and the libraries below it (database, HTTP, stores of files) raise is theirs, of whatever class. It
    is ours when no library but Python's own was called where it was raised.
    """
    if isinstance(error, OSError):
        return False
    callers = [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    ours = max(place for place, name in enumerate(callers) if name == __name__.partition(".")[0])
    return all(name in sys.stdlib_module_names for name in callers[ours + 1 :])
