"""What a trial survives: too little memory, a full disk, a stage that hangs."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from paretune.core.errors import UserError, one_line
from paretune.storage.trial_events import EVENTS
from paretune.workflows.stages import Stages
from paretune.workflows.trial_context import TrialContext

HUNG = 70
"""Exit code of a process that ends itself because a stage hangs."""
FREE = 256 * 2**20
"""Bytes that must be free before a trial that met a full disk goes on."""
_FULL_DATABASE = "database or disk is full"
"""What SQLite says."""
GUARD = """
import ctypes, json, os, signal, sys, time
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
watched, limit, file = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
size, since = None, time.monotonic()
while os.getppid() == watched:
    now = os.path.getsize(file) if os.path.exists(file) else 0
    if now != size:
        size, since = now, time.monotonic()
    if time.monotonic() - since > limit:
        reason = f"its process stood still for more than {limit / 3600:g} h (search.stage_hours)"
        line = json.dumps({"kind": "failed", "stage": "", "time": time.time(), "reason": reason}) + "\\n"
        with open(file, "ab", 0) as events:
            events.write(line.encode())
        os.kill(watched, signal.SIGKILL)
        break
    time.sleep(limit / 20)
"""
"""Program that kills its parent when the parent's events have not grown for a time, and leaves the reason there.

Its arguments are the parent's number, the seconds and the file of events. It dies with its parent.
"""
SLACK, MARGIN = 1.1, 60.0
"""Share of a stage's limit, and seconds after that, in which a process ends itself before it is killed from outside."""
_NO_MEMORY = ("out of memory", "failed to allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, of the host or of a GPU, was too small."""
    kind = type(error).__name__
    return kind in {"OutOfMemoryError", "MemoryError"} or any(text in str(error).lower() for text in _NO_MEMORY)


def is_full_disk(error: BaseException | None) -> bool:
    """Return whether an error, or what caused it, is that no space is left on a disk."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _FULL_DATABASE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def with_half_batch(context: TrialContext) -> TrialContext | None:
    """Return the context of a trial that trains with half of the batch, and half of the learning rate with it.

    Returns:
        None if a batch is a single image already.
    """
    training = context.job.training
    if training.batch_size < 2:
        return None
    half = training.batch_size // 2
    smaller = training.model_copy(update={"batch_size": half, "lr": training.lr * half / training.batch_size})
    return replace(context, job=context.job.model_copy(update={"training": smaller}))


@contextmanager
def full_disk_as_user_error(again: str) -> Iterator[None]:
    """Raise a UserError in place of an error of the block that a full disk has caused.

    Args:
        again: command that goes on once there is space.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not is_full_disk(error):
            raise
        raise UserError(f"a disk is full ({one_line(error)[:200]}); once there is space, go on: {again}") from error


def wait_for_space(folder: Path, say: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until the disk of a folder has ``FREE`` bytes left, saying once that it waits."""
    if shutil.disk_usage(folder).free >= FREE:
        return
    say(f"the disk of {folder} is full; the trial waits until {FREE >> 20} MiB are free")
    while shutil.disk_usage(folder).free < FREE:
        sleep(5.0)


@contextmanager
def stage_limit(stages: Stages, seconds: float | None, overrun: Callable[[str], None]) -> Iterator[None]:
    """Watch the stages of a trial while the block runs.

    A process that is stopped, or in a library that keeps Python's lock, cannot watch itself: another one kills it if no
    event is added for somewhat longer than the limit, and the trial is run again as that of any process that died.

    Args:
        stages: of the trial.
        seconds: that a stage may take; None for no limit.
        overrun: called once, from another thread, with the reason, if a stage takes longer.
    """
    if not seconds:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(min(1.0, seconds / 10)):
            current = stages.current
            if current is not None and stages.clock() - current.started > seconds:
                overrun(f"stage {current.name} took more than {seconds / 3600:g} h (search.stage_hours)")
                return

    guard = None
    if stages.events is not None:
        words = [str(os.getpid()), str(SLACK * seconds + MARGIN), str(stages.events.folder / EVENTS)]
        guard = subprocess.Popen([sys.executable, "-S", "-E", "-c", GUARD, *words], stdin=subprocess.DEVNULL)
    watcher = threading.Thread(target=watch, name="stage limit", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        if guard is not None:
            guard.kill()
            guard.wait()


def end_process() -> None:
    """End this process at once: a stage that hangs in a library answers to nothing less.

    The kernel ends the processes that it started for measuring.
    """
    os._exit(HUNG)
