"""Sweeps in forked processes, without Ray: whole ones in a second, with a fault at any one of their steps.

A step is whatever changes a disk: a file that is opened to be written, renamed or removed, and every statement of SQL
that is no query. Driver, trials and log are processes of their own, as in a real sweep, and each counts its steps.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults_spawner import Forked, LogStarter, Spawner
from faults_sweep import MARK, PACE, Place, install

DRIVER, TRIAL, LOG = ROLES = ("driver", "trial", "log")
KILL, TORN, FULL = "kill", "torn", "full"
"""Faults: the process is killed; it is killed with half of a file written; the disk is full at this step."""
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


@dataclass(frozen=True)
class Fault:
    """What happens at one step of a process of a sweep."""

    role: str
    step: int
    """Number of the step among those of the role, from 0."""
    what: str = KILL
    name: str = ""
    """Text of the first step at which it happens, in place of its number."""


class Steps:
    """Counts the steps of this process and those forked from it, and carries out a fault at one of them.

    Args:
        folder: changes below it are steps.
        fault: to carry out; None counts only.
        trace: file to which each step is written; None writes none.
    """

    def __init__(self, folder: Path, fault: Fault | None, trace: Path | None) -> None:
        self._folder, self._fault, self._trace = str(folder), fault, trace
        self._counts = mmap.mmap(-1, 8 * len(ROLES) + 1)
        self._busy = threading.local()
        self.role = DRIVER

    def watch(self) -> None:
        """Count from now on."""
        from sqlalchemy import Engine, event

        sys.addaudithook(self._audit)
        event.listen(Engine, "before_cursor_execute", self._statement)
        event.listen(Engine, "commit", lambda _: self._step("commit", ""))

    def _statement(self, _: Any, __: Any, statement: str, *___: Any) -> None:
        words = statement.split(maxsplit=3)
        if words and words[0].upper() in ("INSERT", "UPDATE", "DELETE", "CREATE"):
            self._step("sql", " ".join(words[:3]).replace("\n", " "))

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if not isinstance(path, str | bytes | os.PathLike) or not flags & WRITES:
                return
            what = "open"
        elif event in CHANGES:
            path, what = given[0], event.removeprefix("os.")
        else:
            return
        try:
            name = str(Path(os.fsdecode(path)).absolute())
        except TypeError:
            return
        if name.startswith(self._folder):
            self._step(what, name)

    def _step(self, what: str, name: str) -> None:
        if getattr(self._busy, "now", False):
            return
        self._busy.now = True
        try:
            place = 8 * ROLES.index(self.role)
            (count,) = struct.unpack_from("q", self._counts, place)
            struct.pack_into("q", self._counts, place, count + 1)
            if self._trace is not None:
                with self._trace.open("a") as file:
                    file.write(f"{self.role}\t{count}\t{what}\t{name.removeprefix(self._folder)}\n")
            if self._is_due(count, f"{what} {name}"):
                self._counts[-1] = 1  # once, though another process may do the same again
                self._carry_out(what, name)
        finally:
            self._busy.now = False

    def _is_due(self, count: int, step: str) -> bool:
        fault = self._fault
        if fault is None or fault.role != self.role or self._counts[-1]:
            return False
        return fault.name in step if fault.name else fault.step == count

    def _carry_out(self, what: str, name: str) -> None:
        assert self._fault is not None
        if self._fault.what == FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        if self._fault.what == TORN and what == "open":
            handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(handle, b'{"torn": ')
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Result:
    """How a command ended: exit code (negative for a signal), and what it printed."""

    code: int
    text: str
    seconds: float


def run(
    place: Place,
    *words: str,
    fault: Fault | None = None,
    trace: Path | None = None,
    prepare: Callable[[], None] = lambda: None,
    tuner: Any = None,
    limit: float = 60.0,
    meanwhile: Callable[[int], None] = lambda _: None,
    pace: float = 0.0,
    out: str = "out.txt",
) -> Result:
    """Run the command line in a forked process and wait for its end.

    Args:
        place: whose folder is the current one.
        words: of the command line.
        fault: to carry out.
        trace: file for the steps.
        prepare: called in the process before the command.
        tuner: runs the trials; None runs each in a forked process.
        limit: seconds after which the process is killed, with code -1.
        meanwhile: called here with the process's number once it runs.
        pace: seconds of each stage of a trial.
        out: file in the place for what it prints.
    """
    printed, start = place.folder / out, time.monotonic()
    pid = os.fork()
    if not pid:
        _in_child(place, words, Steps(place.folder, fault, trace), prepare, tuner, printed, pace)
    try:
        meanwhile(pid)
        while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() - start > limit:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return Result(-1, f"not done after {limit:g} s\n" + printed.read_text(), time.monotonic() - start)
            time.sleep(0.005)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    return Result(os.waitstatus_to_exitcode(ended[1]), printed.read_text(), time.monotonic() - start)


def _in_child(
    place: Place, words: tuple[str, ...], steps: Steps, prepare: Any, tuner: Any, out: Path, pace: float
) -> None:
    """Run the command line; never returns."""
    from paretune.system import device_lock

    code = 70
    try:
        os.setpgid(0, 0)
        handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        for number in (1, 2):
            os.dup2(handle, number)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(place.folder)
        os.environ |= {MARK: str(place.folder), PACE: str(pace), "HOME": str(place.folder / "home")}
        os.environ["PYTHONPATH"] = place.environment()["PYTHONPATH"]
        device_lock.lock_folder = lambda: place.locks
        prepare()
        steps.watch()
        _patch(Spawner(steps), tuner)
        from paretune.cli.main import main

        code = main(words)
    except BaseException:  # noqa: BLE001 - as Python itself would end
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)


def _patch(spawner: Spawner, tuner: Any) -> None:
    """Take forked processes for the log and, without a tuner, for the trials."""
    from paretune.distributed import ray_session
    from paretune.workflows import sweep_log_client

    sweep_log_client.subprocess = LogStarter(spawner)  # type: ignore[assignment]
    if tuner is None:
        ray_session.session = lambda *_, **__: nullcontext()  # type: ignore[assignment]
        ray_session.cores = lambda: 2.0
        ray_session.nodes = lambda: [{"CPU": 2.0}]
        tuner = Forked(spawner)
    install(tuner)


def load_libraries() -> None:
    """Import what sweeps need, so that forked processes have it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from paretune.tracking.mlflow_client import load_mlflow

    load_mlflow()
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import optuna  # noqa: F401
    import torch

    from paretune.distributed import tune_searcher  # noqa: F401
    from paretune.reports.figures import new_figure
    from paretune.workflows import compare_front, sweep, sweep_log_worker, trial_worker  # noqa: F401

    torch.set_num_threads(1)
    new_figure(1, 1)
