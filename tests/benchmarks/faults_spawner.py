"""A process without threads that forks the processes of a sweep: what a thread of the driver holds is not inherited.

SQLite keeps the locks of a process in its memory: one that is forked while a thread holds a database locked finds it
locked for ever. The same is true of every lock of a library.
"""

from __future__ import annotations

import functools
import json
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Spawner:
    """Forks processes on request, from a process that is itself forked now and dies with this one.

    Args:
        steps: counts the steps of the processes, by role.
    """

    def __init__(self, steps: Any) -> None:
        self._socket, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        driver = os.getpid()
        if os.fork():
            there.close()
            return
        try:
            self._socket.close()
            _serve(there, steps, driver)
        finally:
            os._exit(1)

    def start(self, role: str, work: Callable[..., int], *handles: int) -> int:
        """Start a process that calls a function with open files, which are closed here, and return its number."""
        socket.send_fds(self._socket, [pickle.dumps((role, work))], list(handles))
        for handle in handles:
            os.close(handle)
        return int(self._socket.recv(64))


def _serve(requests: socket.socket, steps: Any, driver: int) -> None:
    from paretune.system.child_process import die_with_parent

    die_with_parent(driver)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    spawner = os.getpid()
    while True:
        body, handles, *_ = socket.recv_fds(requests, 1 << 20, 4)
        if not body:
            return
        if pid := os.fork():
            for handle in handles:
                os.close(handle)
            requests.send(str(pid).encode())
            continue
        code = 1
        try:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            steps.role, work = pickle.loads(body)  # noqa: S301 - of our own process
            die_with_parent(spawner)
            code = work(*handles)
        except BaseException:  # noqa: BLE001 - as Python itself would end
            traceback.print_exc()
        finally:
            os._exit(code)


def answer(work: Callable[[], Any], end: int) -> int:
    """Write what a function returns to an open file, as JSON."""
    os.write(end, json.dumps(work()).encode())
    return 0


class Forked:
    """Runs trials as Ray Tune does, each in a process of the spawner's."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner

    def __call__(self, trial: Any, searcher: Any, *, concurrent: int, **_: Any) -> None:
        """Run all trials that the searcher proposes; Ctrl-C ends it as it ends Tune."""
        from faults_sweep import cheap_trial

        running: dict[int, tuple[str, int]] = {}
        """Open file with a trial's answer → its name and the number of its process."""
        asked, more = 0, True
        try:
            while more or running:
                while more and len(running) < concurrent:
                    asked += 1
                    proposal = searcher.suggest(str(asked))
                    if proposal == searcher.FINISHED or proposal is None:
                        more = proposal is None
                        break
                    answers, end = os.pipe()
                    work = functools.partial(answer, functools.partial(cheap_trial, *trial.args, proposal))
                    running[answers] = (str(asked), self._spawner.start("trial", work, end))
                for answers in select.select(list(running), [], [])[0] if running else ():
                    said, (name, _pid) = os.read(answers, 1 << 16), running.pop(answers)
                    os.close(answers)
                    if said:
                        searcher.on_trial_complete(name, json.loads(said))
                    else:  # it died
                        searcher.on_trial_complete(name, error=True)
        except KeyboardInterrupt:
            for name, pid in running.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                searcher.on_trial_complete(name)


class LogStarter:
    """Stands for the module subprocess: the process of the log is forked, since its libraries take seconds to load."""

    PIPE, TimeoutExpired = subprocess.PIPE, subprocess.TimeoutExpired

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner

    def Popen(self, *_: Any, **__: Any) -> _Process:  # noqa: N802 - the name there
        """Fork the process of the log."""
        (stdin, to), (back, stdout) = os.pipe(), os.pipe()
        return _Process(self._spawner.start("log", _log, stdin, stdout), to, back)


def _log(stdin: int, stdout: int) -> int:
    os.setsid()
    for number, handle in enumerate((stdin, stdout)):
        os.dup2(handle, number)
        os.close(handle)
    sys.stdin = os.fdopen(0, closefd=False)
    from paretune.workflows import sweep_log_worker

    sweep_log_worker.die_with_parent = lambda _: None  # its parent is the spawner, with whom it dies already
    return sweep_log_worker.main()


class _Process:
    """A process that another one has forked, used like one of subprocess."""

    def __init__(self, pid: int, stdin: int, stdout: int) -> None:
        self.pid = pid
        self._ended: int | None = os.pidfd_open(pid)
        self.stdin, self.stdout = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0)

    def poll(self) -> int | None:
        """Return 0 once the process has ended, in whatever way; None while it runs."""
        with suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, patience: float | None = None) -> int:
        """Wait for the end of the process."""
        if self._ended is not None:
            if not select.select([self._ended], [], [], patience)[0]:
                raise subprocess.TimeoutExpired("log", patience or 0)
            os.close(self._ended)
            self._ended = None
        return 0

    def kill(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
