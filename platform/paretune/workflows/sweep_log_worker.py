"""The process beside a sweep that draws its front and writes its MLflow log, from the records on disk.

``sweep_log_client`` starts it and sends one word a line: ``start``, ``trial`` after each trial, and at the end
``finish``, or ``stop`` if the sweep will be resumed. Both the log and the pictures can be made again from the records,
so that the process may be killed at any moment.
"""

from __future__ import annotations

import json
import math
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from paretune.core.errors import UserError
from paretune.core.spec import flat
from paretune.core.types import LeftOut
from paretune.data.left_out import left_out_line
from paretune.results.front_data import views_of
from paretune.results.front_summary import comparison_of, judge_of
from paretune.results.sweep_folder import Sweep
from paretune.system.child_process import die_with_parent, private_stdout
from paretune.system.device_lock import shared_device
from paretune.system.device_turns import device_turn
from paretune.tracking.mlflow_client import load_mlflow
from paretune.tracking.sweep_about import LoggedDataset, SweepAbout
from paretune.tracking.sweep_tracker import MlflowTracker
from paretune.tracking.target_log import TargetLog
from paretune.workflows.front_files import with_first, write_front
from paretune.workflows.sweep_identity import KEY as IDENTITY

LOG_PAUSE = 2.0
"""Least seconds between two updates of the log."""
DRAW_PAUSE = 30.0
"""Least seconds between two pictures of a running sweep."""


def log_params(sweep: Sweep) -> dict[str, object]:
    """Return the params of a sweep's run in the log: its job, and what of the data is left out."""
    left_out = left_out_line([LeftOut(**entry) for entry in sweep.left_out]) or "nothing"
    return flat({**sweep.job.tree(), "paretune": sweep.facts["paretune"], "left_out": left_out})


def sweep_about(sweep: Sweep) -> SweepAbout:
    """Return what the log of a sweep holds of its data, its machine and its versions."""
    identity, job = sweep.facts.get(IDENTITY, {}), sweep.job
    data, machine = identity.get("data") or {}, identity.get("machine") or {}
    kind, fields = next(iter(job.tree()["dataset"].items()))
    root = (fields or {}).get("root")
    name = kind if root is None else f"{kind} {Path(root).name}"
    splits = {
        split: {part: data[f"{part}_{split}"] for part in ("images", "boxes") if f"{part}_{split}" in data}
        for split in ("train", "val", "test")
        if f"images_{split}" in data
    }
    digest = data.get("fingerprint")
    lineage = {
        "mlflow.source.name": f"paretune sweep {sweep.name}",
        "mlflow.source.type": "LOCAL",
        "paretune.version": str(sweep.facts["paretune"]),
        "paretune.seed": str(job.search.seed),
        "paretune.data": digest,
        "paretune.device": ", ".join(f"{part} {value}" for part, value in machine.items()) or None,
    }
    return SweepAbout(
        tuple(job.targets),
        None if digest is None else LoggedDataset(name, digest, splits),
        {tag: text for tag, text in lineage.items() if text is not None},
    )


class SweepLog:
    """The pictures and the log of a sweep, as far as its records go.

    Nothing is drawn or written while a measurement holds the target's device on this machine.

    Args:
        sweep: to draw and log.
    """

    tracker: MlflowTracker
    """Writer of its log."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._devices = [target.device for target in sweep.job.targets.values() if not target.elsewhere]
        tracking, turn = sweep.job.tracking, partial(device_turn, sweep.job.target.device)
        self.tracker = MlflowTracker(sweep.runs, sweep.name, tracking.uri, tracking.experiment, turn)

    def load_libraries(self) -> None:
        """Import what drawing and logging need."""
        from paretune.reports.figures import new_figure

        with shared_device(*self._devices), suppress(Exception):  # where it is needed, its absence is reported
            new_figure(1, 1)
            load_mlflow()

    def start(self) -> None:
        """Open the sweep's run in the log, or continue it."""
        now = Sweep(self._sweep.runs, self._sweep.name)  # facts may have been added since this process began
        self.tracker.start(log_params(now), now.facts["created"], sweep_about(now))

    def update(self, *, draw: bool, last: bool = False) -> None:
        """Log what the log lacks; before the eager baseline is done there is nothing.

        Args:
            draw: whether the front is drawn.
            last: whether the comparison of the front is logged too.
        """
        with shared_device(*self._devices):
            views = views_of(self._sweep)
            if any(view.front["baseline"] is None for view in views):
                return
            logs = [
                TargetLog(
                    view.sweep.further,
                    view.records,
                    view.front,
                    judge_of(view.sweep),
                    write_front(with_first(view, views)) if draw else [],
                )
                for view in views
            ]
        log, *further = logs
        self.tracker.sync(log.records, self._sweep.folder, log.front, log.judge, log.files, ended=last, further=further)
        for view, log in zip(views, logs, strict=True):
            comparison = comparison_of(view.sweep)
            if last and comparison is not None and "ended" in comparison:
                self.tracker.compared(log.records, log.front, comparison, log.target)

    def finish(self) -> None:
        """Draw and log all of a finished sweep; a log that could not be written before is tried again."""
        self.start()
        self.write(ended=True)

    def write(self, *, ended: bool) -> None:
        """Draw and log all that there is.

        Args:
            ended: whether the sweep is finished.
        """
        self.update(draw=True, last=ended)
        if ended:
            self.tracker.finish()


def follow(log: SweepLog, words: queue.Queue[str], answer: Callable[[str], None], *, at_once: bool) -> None:
    """Draw and log a sweep until its end.

    Args:
        log: of the sweep.
        words: commands; an empty one means that the parent has gone.
        answer: called with "ready" and "done".
        at_once: whether "ready" may wait for the log, since no server can keep it waiting.
    """
    log_due, draw_due, logged, drawn = math.inf, math.inf, -math.inf, -math.inf
    while True:
        due = min(log_due, draw_due)
        try:
            word = words.get(timeout=None if due == math.inf else max(0.0, due - time.monotonic()))
        except queue.Empty:
            word, logged = "due", time.monotonic()
        if word == "start":
            steps = (log.start, partial(answer, "ready")) if at_once else (partial(answer, "ready"), log.start)
            for step in steps:
                step()
        if word in ("start", "trial"):
            now = time.monotonic()
            log_due = min(log_due, max(now, logged + LOG_PAUSE))
            draw_due = min(draw_due, max(now, drawn + DRAW_PAUSE))
        elif word == "due":
            draw = draw_due <= logged
            log.update(draw=draw)
            logged = time.monotonic()
            log_due, draw_due, drawn = math.inf, math.inf if draw else draw_due, logged if draw else drawn
        else:
            break
    if word == "finish":
        log.finish()
    elif word == "stop":
        log.update(draw=True)
    else:
        return
    answer("done")


def _read(words: queue.Queue[str]) -> None:
    for line in sys.stdin:
        words.put(line.strip())
    words.put("")


def main() -> int:
    """Follow the sweep that the first line names."""
    answers = private_stdout()

    def answer(text: str) -> None:
        answers.write(text + "\n")
        answers.flush()

    request = json.loads(sys.stdin.readline())
    die_with_parent(request["parent"])
    sys.path += [folder for folder in request["path"] if folder not in sys.path]
    words: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(words,), daemon=True).start()
    try:
        sweep = Sweep(Path(request["runs"]), request["name"])
        log = SweepLog(sweep)
        log.load_libraries()
        follow(log, words, answer, at_once=log.tracker.local)
    except UserError as error:
        answer(f"error {error}".replace("\n", "\v"))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
