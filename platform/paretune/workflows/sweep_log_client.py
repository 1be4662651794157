"""The sweep's side of the process that draws its front and writes its MLflow log."""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from paretune.core.errors import UserError
from paretune.distributed.ray_session import python_path
from paretune.results.sweep_folder import Sweep
from paretune.system.device_holders import doing
from paretune.tracking.mlflow_client import LogPlace

COMMAND = (sys.executable, "-P", "-m", "paretune.workflows.sweep_log_worker")
STARTING = 60.0
"""Longest wait in seconds for the process before the trials begin."""
STOPPING = 10.0
"""Longest wait in seconds for the process if the sweep stops before its end."""
LOGGING = 60.0
"""Longest wait in seconds for a server of the log at the end of a sweep, once the front is drawn."""
QUIET = 10.0
"""Seconds of waiting at the end of a sweep before a line about it is printed."""


def log_place(sweep: Sweep) -> LogPlace:
    """Return the place in which a sweep is logged."""
    tracking = sweep.job.tracking
    return LogPlace.of(sweep.runs, sweep.name, tracking.uri, tracking.experiment)


class SweepLogProcess:
    """A process that draws and logs a sweep, which never waits for it before its end.

    Args:
        sweep: to draw and log.
        say: prints a line.
    """

    def __init__(self, sweep: Sweep, say: Callable[[str], None]) -> None:
        self._sweep, self._say = sweep, say
        self._process: subprocess.Popen[bytes] | None = None
        self._unread = b""
        self._started = False

    def launch(self) -> None:
        """Start the process unless it runs; it loads its libraries meanwhile."""
        if self._process is not None:
            return
        libraries = {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path(), **doing()}
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is this process's matter
            env={**os.environ, **libraries},
        )
        self._unread = b""
        path = [str(Path(folder).absolute()) for folder in sys.path]
        request = {"parent": os.getpid(), "path": path, "runs": str(self._sweep.runs), "name": self._sweep.name}
        self._send(json.dumps(request))
        assert self._process.stdin is not None  # noqa: S101 - a pipe was asked for
        os.set_blocking(self._process.stdin.fileno(), False)  # a process that hangs keeps no trial waiting

    def start(self) -> None:
        """Have the sweep's run opened in the log; returns once the libraries are loaded, before a trial measures."""
        self.launch()
        self._started = True
        self._send("start")
        self._answer(time.monotonic() + STARTING)

    def trial_done(self) -> None:
        """Have a new record drawn and logged, in a while."""
        self._send("trial")

    def finish(self) -> None:
        """Wait until everything is drawn and logged; a process that died is started again.

        Raises:
            UserError: a record cannot be read.
            RuntimeError: the process died twice.
        """
        for _ in range(2):
            self.launch()
            self._send("finish")
            done = self._done()
            self._end(STOPPING if done else 0.0)
            if done:
                return
        raise RuntimeError(f"the front of {self._sweep.name!r} could not be drawn and logged; the reason is above")

    def _done(self) -> bool:
        """Wait until the process is done, with a line if that takes long; returns False if it died.

        The server of a log may take ``LOGGING`` seconds: what it did not get then is left to ``paretune sync``.
        """
        quiet, latest = time.monotonic() + QUIET, math.inf
        while (answer := self._answer(min(quiet, latest))) != "done":
            now = time.monotonic()
            if answer == "drawn":
                latest = now + LOGGING if log_place(self._sweep).server else math.inf
            elif answer is None and now >= latest:
                words, again = log_place(self._sweep).words, self._sweep.command("sync")
                self._say(f"{words} did not take the last trials within {LOGGING:g} s; `{again}` logs them")
                self._end(0.0)
                return True
            elif answer is None and now < quiet:  # it has died
                return False
            elif answer is None:
                self._say("the last trials are being logged; Ctrl-C ends it, and the sweep can be resumed")
                quiet = math.inf
        return True

    def stop(self) -> None:
        """End the process, after a last update if it can be made soon."""
        if self._process is not None:
            self._send("stop")
            self._end(STOPPING if self._started else 0.0)

    def _send(self, word: str) -> None:
        """Send a word, unless the process has died or does not read."""
        if self._process is not None and self._process.stdin is not None:
            with suppress(BrokenPipeError, BlockingIOError):
                os.write(self._process.stdin.fileno(), f"{word}\n".encode())

    def _answer(self, deadline: float) -> str | None:
        """Return the next answer; None if the process has died or does not answer in time.

        Raises:
            UserError: the process met one.
        """
        if self._process is None or self._process.stdout is None:
            return None
        waiting = select.poll()  # select() cannot take the high file numbers of a large parent
        waiting.register(self._process.stdout, select.POLLIN)
        while b"\n" not in self._unread:
            left = None if deadline == math.inf else max(0.0, deadline - time.monotonic()) * 1000
            if not waiting.poll(left) or not (chunk := os.read(self._process.stdout.fileno(), 1 << 16)):
                return None
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        kind, _, reason = line.decode().partition(" ")
        if kind == "error":
            self._end(STOPPING)
            raise UserError(reason.replace("\v", "\n"))
        return kind

    def _end(self, patience: float) -> None:
        """Wait for the end of the process, and kill it after a time."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with suppress(BrokenPipeError, BlockingIOError):
                process.stdin.close()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        finally:
            if process.stdout is not None:
                process.stdout.close()
