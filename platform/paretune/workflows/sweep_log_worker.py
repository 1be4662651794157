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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.core.secret_texts import without_secrets
from paretune.core.spec import flat
from paretune.core.startup import any_output
from paretune.core.types import LeftOut
from paretune.data.left_out import left_out_line
from paretune.results.front_data import SweepView, views_of
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
SHARE = 0.01
"""Share of a core that drawing may take while a sweep runs, and that making the log may take: with thousands of trials
the pauses are longer."""


def log_params(sweep: Sweep) -> dict[str, object]:
    """Return the params of a sweep's run in the log: its job, and what of the data is left out."""
    left_out = left_out_line([LeftOut(**entry) for entry in sweep.left_out]) or "nothing"
    params = flat({**sweep.job.tree(), "paretune": sweep.facts["paretune"], "left_out": left_out})
    return {name: without_secrets(value) if isinstance(value, str) else value for name, value in params.items()}


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

    Nothing is drawn or written while a measurement holds the target's device on this machine. The log is written in a
    thread of its own, so that a slow server keeps no picture waiting.

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
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="log")
        self._written: list[Future[None]] = []

    def load_libraries(self) -> None:
        """Import what drawing and logging need."""
        from paretune.reports.figures import new_figure

        with shared_device(*self._devices), suppress(Exception):  # where it is needed, its absence is reported
            new_figure(1, 1)
            load_mlflow()

    @property
    def writing(self) -> bool:
        """Return whether the log is being written."""
        return any(not one.done() for one in self._written)

    def wait(self) -> None:
        """Wait until the log is written, or could not be; a mistake of this package in that is raised here."""
        while self._written:
            self._written.pop(0).result()

    def start(self) -> None:
        """Have the sweep's run opened in the log, or continued."""
        now = Sweep(self._sweep.runs, self._sweep.name)  # facts may have been added since this process began
        self._write(self.tracker.start, log_params(now), now.facts["created"], sweep_about(now))

    def update(self, *, draw: bool, write: bool = True) -> None:
        """Have the log get what it lacks; before the eager baseline is done there is nothing.

        Args:
            draw: whether the front is drawn.
            write: whether the log is written.
        """
        views, logs = self._logs(draw=draw)
        if write and logs:
            self._write(self._log, views, logs)

    def delete(self) -> None:
        """Delete the sweep's runs in the log."""
        self.start()
        self._write(self.tracker.delete)
        self.wait()

    def finish(self, drawn: Callable[[], None] = lambda: None, *, ended: bool = True) -> None:
        """Draw and log all that there is; a log that could not be written before is tried again.

        Args:
            drawn: called when only the log is left to be written.
            ended: whether the sweep is finished.
        """
        views, logs = self._logs(draw=True)
        drawn()
        self.start()
        if logs:
            self._write(partial(self._log, views, logs, last=ended))
        if ended:
            self._write(self.tracker.finish)
        self.wait()

    def _write(self, do: Callable[..., None], *given: Any) -> None:
        self._written.append(self._writer.submit(do, *given))

    def _logs(self, *, draw: bool) -> tuple[list[SweepView], list[TargetLog]]:
        """Return what the log gets of each target, with pictures if asked; empty before the eager baseline is done."""
        with shared_device(*self._devices):
            views = views_of(self._sweep)
            if any(view.front["baseline"] is None for view in views):
                return [], []
            return views, [
                TargetLog(
                    view.sweep.further,
                    view.records,
                    view.front,
                    judge_of(view.sweep),
                    write_front(with_first(view, views)) if draw else [],
                )
                for view in views
            ]

    def _log(self, views: Sequence[SweepView], logs: Sequence[TargetLog], *, last: bool = False) -> None:
        """Write what the log lacks; at last the comparison of the front too."""
        log, *further = logs
        self.tracker.sync(log.records, self._sweep.folder, log.front, log.judge, log.files, ended=last, further=further)
        for view, log in zip(views, logs, strict=True):
            comparison = comparison_of(view.sweep)
            if last and comparison is not None and "ended" in comparison:
                self.tracker.compared(log.records, log.front, comparison, log.target)


@dataclass
class Due:
    """When something is to be done: asked for, and not too soon after the last time."""

    at: float = math.inf
    earliest: float = -math.inf

    def ask(self) -> None:
        """Have it done as soon as it may be."""
        self.at = min(self.at, max(time.monotonic(), self.earliest))

    def done(self, pause: float) -> None:
        """Note that it was done, and may be done again after seconds."""
        self.at, self.earliest = math.inf, time.monotonic() + pause


def follow(log: SweepLog, words: queue.Queue[str], answer: Callable[[str], None], *, at_once: bool) -> None:
    """Draw and log a sweep until its end.

    Args:
        log: of the sweep.
        words: commands; an empty one means that the parent has gone.
        answer: called with "ready", "drawn" and "done".
        at_once: whether "ready" may wait for the log, since no server can keep it waiting.
    """
    logging, drawing = Due(), Due()
    while True:
        due = min(logging.at, drawing.at)
        try:
            word = words.get(timeout=None if due == math.inf else max(0.0, due - time.monotonic()))
        except queue.Empty:
            _update(log, logging, drawing)
            continue
        if word not in ("start", "trial"):
            break
        if word == "start":
            log.start()
            if at_once:
                log.wait()
            answer("ready")
        logging.ask()
        drawing.ask()
    if word == "finish":
        log.finish(partial(answer, "drawn"))
    elif word == "stop":
        log.update(draw=True)
        log.wait()
    else:
        return
    answer("done")


def _update(log: SweepLog, logging: Due, drawing: Due) -> None:
    """Draw if that is due, and log unless a server still takes its time for the last update."""
    draw, write, start = drawing.at <= time.monotonic(), not log.writing, time.thread_time()
    if write:
        log.wait()  # it is done
    if draw or write:
        log.update(draw=draw, write=write)
    pause = (time.thread_time() - start) / SHARE
    logging.done(LOG_PAUSE if draw else max(LOG_PAUSE, pause))
    if draw:
        drawing.done(max(DRAW_PAUSE, pause))
    if not write:
        logging.ask()


def _read(words: queue.Queue[str]) -> None:
    for line in sys.stdin:
        words.put(line.strip())
    words.put("")


def main() -> int:
    """Follow the sweep that the first line names."""
    answers = private_stdout()
    any_output()

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
