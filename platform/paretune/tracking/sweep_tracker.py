"""Logging of a sweep to MLflow; a log that fails neither ends the sweep nor delays it."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from paretune.core.errors import reason_of
from paretune.core.hints import command
from paretune.search.pareto_front import FrontRules
from paretune.storage.trial_record import Record
from paretune.tracking.mlflow_client import LogPlace, Turn
from paretune.tracking.sweep_about import SweepAbout
from paretune.tracking.sweep_runs import SweepRuns
from paretune.tracking.target_log import TargetLog

PAUSE = 60.0
"""Seconds without an attempt after the log could not be written: an attempt can take half a minute."""


class MlflowTracker:
    """Writer of one sweep's log.

    If the log cannot be written, it prints so once and goes on: the records are the truth, and a later ``sync`` catches
    up. Only one process writes the log of a sweep.

    Args:
        runs: output folder, which holds the database unless ``uri`` names a server.
        sweep: name of the sweep.
        uri: URI of the tracking server that the job names, or None.
        experiment: name of the experiment that the job names, or None; it is made if it does not exist.
        turn: makes the context of each call of MLflow.
    """

    place: LogPlace
    """Place of the log."""

    def __init__(
        self, runs: Path, sweep: str, uri: str | None, experiment: str | None, turn: Turn = nullcontext
    ) -> None:
        self.place, self._turn = LogPlace.of(runs, sweep, uri, experiment), turn
        self._params: Mapping[str, Any] = {}
        self._about = SweepAbout()
        self._started = time.time()
        self._runs: SweepRuns | None = None
        self._not_before = 0.0
        self._warned = False

    def start(self, params: Mapping[str, Any], started: float, about: SweepAbout | None = None) -> None:
        """Make the sweep's run, or open it again.

        Args:
            params: the job as flat params.
            started: time at which the sweep was made, in seconds since 1970.
            about: targets, data and lineage of the sweep.
        """
        self._params, self._started, self._about = params, started, about or SweepAbout()
        self._not_before = 0.0
        self._safely(lambda runs: runs.resume())

    def sync(
        self,
        records: Sequence[Record],
        sweep_folder: Path,
        front: Mapping[str, Any],
        judge: FrontRules,
        files: Sequence[Path],
        *,
        ended: bool = False,
        further: Sequence[TargetLog] = (),
    ) -> None:
        """Log what the log lacks; what it has stays as it is.

        Args:
            records: records of all trials so far.
            sweep_folder: folder to which the records' artefact paths are relative.
            front: result of ``front.front_object``.
            judge: objectives and constraints.
            files: pictures and tables of the front.
            ended: whether the search is over.
            further: what the log gets of the targets after the first.
        """
        fronts = {
            one["target"]: {point["trial"] for point in one["front"]} for one in (front, *(f.front for f in further))
        }

        def bring_up_to_date(runs: SweepRuns) -> None:
            runs.log_trials(records, sweep_folder)
            runs.mark_fronts(records, fronts)
            runs.log_steps(records, front, judge)
            runs.log_front_files(files)
            for one in further:
                runs.log_target(one)
            runs.describe(records, front, judge, ended=ended)
            runs.link_sweeps()

        self._safely(bring_up_to_date)

    @property
    def local(self) -> bool:
        """Return whether the log is a database of this machine, which keeps nobody waiting."""
        return self.place.server is None

    @property
    def failed(self) -> bool:
        """Return whether the last attempt to write the log failed."""
        return self._warned

    def delete(self) -> None:
        """Delete the runs of the sweep, so that the next call makes all of them again."""

        def delete(runs: SweepRuns) -> None:
            runs.delete()
            self._runs = None

        self._safely(delete)

    def finish(self) -> None:
        """Mark the sweep's run as finished."""
        self._safely(lambda runs: runs.finish())

    def compared(
        self,
        records: Sequence[Record],
        front: Mapping[str, Any],
        comparison: Mapping[str, Any],
        target: str | None = None,
    ) -> None:
        """Log the result of the comparison of the front.

        Args:
            records: records of all trials, on the comparison's scale.
            front: result of ``front.front_object``.
            comparison: result of ``finalists.compare_front``.
            target: further target that was compared on; None for the first.
        """
        self._safely(lambda runs: runs.log_comparison(records, front, comparison, target))

    def _safely(self, do: Callable[[SweepRuns], None]) -> None:
        """Write to the log; an error of server, database, migration or disk is printed and does not end the sweep."""
        if time.monotonic() < self._not_before:
            return
        try:
            if self._runs is None:
                self._runs = SweepRuns(self.place, self._params, self._started, self._turn, self._about)
            do(self._runs)
            self._written_again()
        except Exception as error:
            if _is_a_bug(error):
                raise
            self._runs = None  # the next attempt reads what was written
            self._not_before = time.monotonic() + PAUSE
            self._warn(error)

    def _written_again(self) -> None:
        """Print once that a log which could not be written is written again."""
        if self._warned:
            print("MLflow can be written again; what it lacks is logged now", file=sys.stderr)
        self._warned = False

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            reason = reason_of(error)[:300]
            again = f"`{command('sync', self.place.sweep, '--runs', self.place.runs)}` logs them"
            print(f"MLflow cannot be written ({reason}); the records are kept, {again}", file=sys.stderr)
        self._warned = True


def _is_a_bug(error: Exception) -> bool:
    """Return whether an error is a mistake in this package, not one of MLflow, its libraries or the disk.

    It is ours if only Python's own library was called between this package and the place where it was raised; whatever
    MLflow and the libraries below it (database, HTTP, stores of files) raise is theirs, of whatever class.
    """
    if isinstance(error, OSError):
        return False
    callers = [
        frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    ours = max(place for place, name in enumerate(callers) if name == __name__.partition(".")[0])
    return all(name in sys.stdlib_module_names for name in callers[ours + 1 :])
