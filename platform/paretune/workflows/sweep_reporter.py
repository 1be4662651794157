"""Output of a sweep: lines in the terminal, and the process that draws its front and logs it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import cached_property

from paretune.reports import terminal as display
from paretune.results.front_summary import comparison_of, front_text, judge_of
from paretune.results.sweep_folder import Sweep
from paretune.search.progress import SweepProgress
from paretune.storage.trial_record import Record, read_records
from paretune.workflows.sweep_log_client import SweepLogProcess


class SweepReporter:
    """Reports the progress of one sweep; pictures and log are made in a process of their own, from the records."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._start = time.monotonic()
        self._log = SweepLogProcess(sweep, self.say)
        self.limit: Callable[[], float] = lambda: math.inf
        """Returns the seconds that the limits of the search in hours leave."""

    @cached_property
    def _progress(self) -> SweepProgress:
        return SweepProgress(judge_of(self.sweep), read_records(self.sweep.folder), comparison_of(self.sweep))

    def say(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)

    def prepare(self) -> None:
        """Start the process that draws and logs; its libraries load while the sweep begins."""
        self._log.launch()

    def started(self) -> None:
        """Open the sweep's run in the log, or continue it."""
        self._log.start()

    def trial_done(self, record: Record) -> None:
        """Print a line for one trial, and have the front drawn and the trial logged."""
        progress, budget = self._progress, self.sweep.job.search.trials
        progress.add(record)
        left = display.time_left(progress, budget, self.limit())
        self.say(display.trial_line(record.number, progress, budget) + left)
        self._log.trial_done()

    def finished(self) -> None:
        """Print the front, the folder of its pictures, and the next command to type."""
        self._log.finish()
        print(front_text(self.sweep))

    def stop(self) -> None:
        """Have the last trials drawn and logged if that is soon done, and end the process."""
        self._log.stop()
