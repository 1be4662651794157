"""Output of a sweep: lines in the terminal, and the process that draws its front and logs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from paretune.reports import terminal as display
from paretune.results.front_summary import comparison_of, front_text, judge_of, recorded
from paretune.results.sweep_folder import Sweep
from paretune.results.sweep_reader import SweepReader
from paretune.search.progress import SweepProgress
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import Record
from paretune.workflows.live_view import LiveView
from paretune.workflows.sweep_log_client import SweepLogProcess, log_place

if TYPE_CHECKING:
    from rich.console import Console


class SweepReporter:
    """Reports the progress of one sweep; pictures and log are made in a process of their own, from the records.

    Args:
        sweep: that runs.
        console: a terminal, whose last lines show the sweep's state; None prints a line about it from time to time.
    """

    def __init__(self, sweep: Sweep, console: Console | None = None) -> None:
        self.sweep = sweep
        self._start = time.monotonic()
        self._log = SweepLogProcess(sweep, self.say)
        self._view = LiveView(SweepReader(sweep).look, self.say, console)
        self.limit: Callable[[], float] = lambda: math.inf
        """Returns the seconds that the limits of the search in hours leave."""

    @cached_property
    def _progress(self) -> list[tuple[Sweep, SweepProgress]]:
        """The progress on each target, the first one's before the others'."""
        views = self.sweep.each_target()
        return [(view, SweepProgress(judge_of(view), recorded(view), comparison_of(view))) for view in views]

    def say(self, text: str) -> None:
        """Print one line with the time since the start."""
        self._view.said()
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)

    def prepare(self) -> None:
        """Start the live view, and the process that draws and logs; its libraries load while the sweep begins."""
        self._view.start()
        self._log.launch()

    def started(self) -> None:
        """Print where the log goes, and open the sweep's run in it or continue it."""
        self.say(f"MLflow: {log_place(self.sweep).words}; to look at it: {self.sweep.command('ui')}")
        self._log.start()

    def trial_done(self, record: Record) -> None:
        """Print a line for one trial, and have the front drawn and the trial logged."""
        (_, progress), *others = self._progress
        budget, further = self.sweep.job.search.trials, ""
        progress.add(record)
        for view, other in others:
            other.add(on_target(record, view.further))
            further += display.further_target(record.number, view.job.target_name, other)
        left = display.time_left(progress, budget, self.limit())
        self.say(display.trial_line(record.number, progress, budget) + further + left)
        self._log.trial_done()

    def finished(self) -> None:
        """Print the front, the folder of its pictures, and the next command to type."""
        self._log.finish()
        self._view.stop()
        print(front_text(self.sweep))

    def stop(self) -> None:
        """Have the last trials drawn and logged if that is soon done, and end the process and the view."""
        try:
            self._log.stop()
        finally:
            self._view.stop()
