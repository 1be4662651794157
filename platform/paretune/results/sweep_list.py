"""The sweeps of an output folder: what became of each, in a line."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from paretune.config.output_folder import SWEEP_FILE
from paretune.core.baselines import EAGER
from paretune.core.console import filled
from paretune.core.errors import UserError, one_line
from paretune.core.metrics import UNKNOWN, metric_of
from paretune.reports.tables import Table
from paretune.results.front_summary import comparison_of, judge_of, records_of
from paretune.results.sweep_folder import Sweep
from paretune.search.pareto_front import best_point, front_object
from paretune.storage.trial_record import read_record
from paretune.system.file_lock import is_locked

State = Literal["running", "stopped", "finished", "failed"]
"""running: a process of this machine runs it; stopped: ``resume`` goes on with it; failed: the eager baseline
failed, or the folder cannot be read."""


@dataclass(frozen=True)
class SweepSummary:
    """One sweep in short; the front is that of the job's first target, None before the eager baseline is measured."""

    name: str
    state: State
    folder: str
    created: float | None = None
    """Seconds since 1970; None if the folder cannot be read."""
    done: int = 0
    """Number of complete trials."""
    failed: int = 0
    stopped: int = 0
    """Number of trials that were ended early."""
    planned: int | None = None
    """Number of trials that the budget allows."""
    front: int | None = None
    """Number of points of the front."""
    best: dict[str, Any] | None = None
    """Recommended point: ``trial``, ``metrics`` of the objectives, and ``speedup`` over the eager baseline."""
    reason: str | None = None
    """Why a failed sweep failed."""


def sweep_state(sweep: Sweep) -> State:
    """Return the state of a sweep on disk."""
    if is_locked(sweep.folder / ".lock"):
        return "running"
    if sweep.finished:
        return "finished"
    eager = read_record(sweep.folder, EAGER)
    return "stopped" if eager is None or eager.state == "complete" else "failed"


def list_sweeps(runs: Path) -> list[SweepSummary]:
    """Return the sweeps of an output folder, newest first; those that cannot be read come last.

    Raises:
        UserError: there is no such folder.
    """
    if not runs.is_dir():
        raise UserError(f"there is no output folder {runs}: begin a sweep, or name another folder with --runs")
    found = [_summary(Sweep(runs, file.parent.name)) for file in sorted(runs.glob(f"*/{SWEEP_FILE}"))]
    return sorted(found, key=lambda one: -(one.created or 0.0))


def _summary(sweep: Sweep) -> SweepSummary:
    """Return a sweep in short; a folder that cannot be read has the reason."""
    try:
        records, state = records_of(sweep), sweep_state(sweep)
        front = front_object(sweep.name, sweep.job.target_name, records, judge_of(sweep), comparison_of(sweep))
        created = float(sweep.facts["created"])
    except (UserError, KeyError, TypeError, ValueError) as error:
        return SweepSummary(sweep.name, "failed", str(sweep.folder), reason=f"cannot be read: {one_line(error)}")
    states = Counter(record.state for record in records)
    failure = next((record.failure for record in records if record.number == EAGER), None)
    return SweepSummary(
        name=sweep.name,
        state=state,
        folder=str(sweep.folder),
        created=created,
        done=states["complete"],
        failed=states["failed"],
        stopped=states["stopped"],
        planned=sweep.job.search.trials,
        front=None if front["baseline"] is None else len(front["front"]),
        best=_best(front),
        reason=f"its eager baseline failed: {failure}" if state == "failed" else None,
    )


def _best(front: dict[str, Any]) -> dict[str, Any] | None:
    """Return the recommended point of a front in short."""
    if front["best"] is None or front["baseline"] is None:
        return None
    number = front["best"]["trial"]
    metrics = best_point(front)["metrics"]
    before, after = front["baseline"]["metrics"].get("latency_ms"), metrics.get("latency_ms")
    return {
        "trial": number,
        "metrics": {name: metrics.get(name) for name in front["objectives"]},
        "speedup": before / after if before and after else None,
    }


def list_tree(runs: Path, sweeps: list[SweepSummary]) -> dict[str, Any]:
    """Return the sweeps of an output folder as plain data."""
    return {"runs": str(runs), "sweeps": [asdict(one) for one in sweeps]}


def list_text(runs: Path, sweeps: list[SweepSummary]) -> str:
    """Return the sweeps of an output folder as a table."""
    if not sweeps:
        return f"no sweep lies in {runs}"
    head = ("sweep", "state", "done", "failed", "stopped", "front", "best", "begun", "folder")
    rows = tuple(
        (
            one.name,
            one.state,
            f"{one.done} of {one.planned}" if one.planned else UNKNOWN,
            str(one.failed),
            str(one.stopped),
            UNKNOWN if one.front is None else str(one.front),
            _best_words(one.best),
            UNKNOWN if one.created is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created)),
            one.folder,
        )
        for one in sweeps
    )
    words, spare = ("sweep", "state", "best", "folder"), ("folder", "stopped", "failed", "begun", "front")
    reasons = [filled(f"{one.name}: {one.reason}") for one in sweeps if one.reason]
    return "\n".join([Table("", head, rows, words=words, spare=spare).text(), *reasons])


def _best_words(best: dict[str, Any] | None) -> str:
    """Return a point in short, such as ``8: map 0.449, 1.25 ms, 7.3x eager``."""
    if best is None:
        return UNKNOWN
    figures = [metric_of(name).phrase(value) for name, value in best["metrics"].items()]
    gain = [] if best["speedup"] is None else [f"{best['speedup']:.1f}x eager"]
    return f"{best['trial']}: {', '.join([*figures, *gain])}"
