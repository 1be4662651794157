"""The process of a sweep's log, forked from the driver: its libraries take seconds to load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import traceback
from typing import Any


class Forking:
    """Stands for the module subprocess: the process of the log is forked, since its libraries take seconds to load."""

    PIPE, TimeoutExpired = subprocess.PIPE, subprocess.TimeoutExpired

    def __init__(self, steps: Any) -> None:
        self._steps = steps

    def Popen(self, *_: Any, **__: Any) -> _Process:  # noqa: N802 - the name there
        """Fork the process of the log."""
        (stdin, to), (back, stdout) = os.pipe(), os.pipe()
        if pid := os.fork():
            os.close(stdin)
            os.close(stdout)
            return _Process(pid, to, back)
        try:
            os.setsid()
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            for handle in (stdin, to, back, stdout):
                os.close(handle)
            sys.stdin = os.fdopen(0, closefd=False)
            self._steps.role = "log"
            from paretune.workflows import sweep_log_worker

            os._exit(sweep_log_worker.main())
        except BaseException:  # noqa: BLE001 - as Python itself would end
            traceback.print_exc()
        finally:
            os._exit(1)


class _Process:
    """A forked process that is used like one of subprocess."""

    def __init__(self, pid: int, stdin: int, stdout: int) -> None:
        self.pid, self._code = pid, None
        self.stdin, self.stdout = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0)

    def poll(self) -> int | None:
        """Return the exit code; None while the process runs."""
        if self._code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self._code = os.waitstatus_to_exitcode(ended[1])  # type: ignore[assignment]
        return self._code

    def wait(self, patience: float | None = None) -> int:
        """Wait for the end of the process."""
        end = time.monotonic() + (1e9 if patience is None else patience)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("log", patience or 0)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        """Kill the process."""
        os.kill(self.pid, signal.SIGKILL)
