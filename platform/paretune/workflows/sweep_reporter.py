"""Output of a sweep: lines in the terminal, the front's files, the MLflow log."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.core.baselines import EAGER
from paretune.core.spec import flat
from paretune.core.types import LeftOut
from paretune.data.left_out import left_out_line
from paretune.reports import terminal as display
from paretune.results.front_summary import advice_of, comparison_of, front_of, front_text, judge_of, records_of
from paretune.results.sweep_folder import Sweep
from paretune.search.hypervolume_series import series_csv
from paretune.storage.trial_record import Record
from paretune.system.device_lock import shared_device
from paretune.tracking.sweep_tracker import MlflowTracker


class SweepReporter:
    """Reports the progress of one sweep; the MLflow log can be rebuilt from the records."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._start = time.monotonic()
        tracking = sweep.job.tracking
        self._tracker = MlflowTracker(sweep.runs, sweep.name, tracking.uri, tracking.experiment)

    def say(self, text: str) -> None:
        """Print one line with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._start), 60)
        print(f"[{minutes:02d}:{seconds:02d}] {text}", flush=True)

    def started(self) -> None:
        """Open the sweep's run in the log, or continue it."""
        left_out = left_out_line([LeftOut(**entry) for entry in self.sweep.left_out]) or "nothing"
        facts = {"paretune": self.sweep.facts["paretune"], "left_out": left_out}
        params = flat({**self.sweep.job.tree(), **facts})
        with shared_device(self.sweep.job.target.device):
            self._tracker.start(params, self.sweep.facts["created"])
            self._update()

    def trial_done(self, record: Record) -> None:
        """Print a line for one trial, and update the log and the front's files."""
        records = records_of(self.sweep)
        budget = self.sweep.job.search.trials
        line = display.trial_line(record.number, records, judge_of(self.sweep), budget)
        self.say(line + display.time_left(records, budget))
        self._update()

    def finished(self) -> None:
        """Print the front, the folder of its pictures, and the next command to type."""
        self.started()
        comparison = comparison_of(self.sweep)
        with shared_device(self.sweep.job.target.device):
            if comparison is not None and "ended" in comparison:
                records = records_of(self.sweep)
                self._tracker.compared(records, front_of(self.sweep, records), comparison)
            self._tracker.finish()
        print(front_text(self.sweep))

    def _update(self) -> None:
        """Update the front's files and the log while no measurement holds the target's device on this machine."""
        records = records_of(self.sweep)
        if any(r.number == EAGER and r.state == "complete" for r in records):
            with shared_device(self.sweep.job.target.device):
                front = front_of(self.sweep, records)
                files = write_front(self.sweep, front, records)
                self._tracker.sync(records, self.sweep.folder, front, judge_of(self.sweep), files)


def write_front(sweep: Sweep, front: dict[str, Any], records: Sequence[Record]) -> list[Path]:
    """Write the front's pictures and tables into the sweep's folder, and return the files."""
    from paretune.reports.front_page import FrontView, front_csv, front_html, front_png

    advice = [one.tree() for one in advice_of(sweep)]
    violations = {record.number: sweep.violations(record) for record in records if record.state == "complete"}
    aims = judge_of(sweep).objectives
    picture = FrontView(front, records, aims, comparison_of(sweep), sweep.floors, advice, violations, sweep.ceilings)
    folder = sweep.folder / "front"
    folder.mkdir(exist_ok=True)
    (folder / "front.json").write_text(json.dumps(front, indent=1))
    (folder / "front.csv").write_text(front_csv(picture))
    (folder / "hypervolume.csv").write_text(series_csv(front["hypervolume_series"]))
    (folder / "front.html").write_text(front_html(picture))
    front_png(picture, folder / "front.png")
    return sorted(folder.iterdir())
