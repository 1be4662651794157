"""The process that is measured: loads one artefact and runs it when told to.

Started by ``supervisor.Worker`` as ``python -m paretune.profiling.worker``; commands come as JSON lines
on standard input, answers go as JSON lines to the standard output it was given. Between commands it
sleeps in a read. Nothing but the artefact's own libraries is imported.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

Row = tuple[int, int, int, int, int, int]
"""Nanoseconds of preprocess, network, postprocess, end to end, CPU time; involuntary context switches."""

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Load what the first line asks for, then obey."""
    answers = _private_stdout()
    request = json.loads(sys.stdin.readline())
    _die_with_parent(request["parent"])
    facts = _settle(request["cores"])
    start = time.perf_counter_ns()
    module, _, function = request["loader"].partition(":")
    from paretune.target import Target

    predictor = getattr(importlib.import_module(module), function)(
        Path(request["artefact"]), Target.model_validate(request["target"])
    )
    loaded = time.perf_counter_ns()
    images = _images(Path(request["images"]))
    run = _Runner(predictor, images, request["cores"])
    first = run.once()
    facts |= predictor.facts | {"load_ms": (loaded - start) / 1e6, "first_inference_ms": first[3] / 1e6}
    _answer(answers, {"facts": facts})
    for line in sys.stdin:
        command = json.loads(line)
        _answer(answers, run.sample(command["seconds"], command["at_least"], command["at_most_seconds"]))


def _private_stdout() -> TextIO:
    """Return the standard output for answers; whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def _answer(answers: TextIO, body: dict[str, Any]) -> None:
    answers.write(json.dumps(body) + "\n")
    answers.flush()


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the supervisor dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)


def _settle(cores: Sequence[int]) -> dict[str, Any]:
    """Pin to the cores, ask for normal priority; both are read back."""
    os.sched_setaffinity(0, cores)
    with suppress(PermissionError):  # a parent at nice 15 hands it down, and only root may go back
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    return {"cores": sorted(os.sched_getaffinity(0)), "nice": os.getpriority(os.PRIO_PROCESS, 0)}


def _images(file: Path) -> list[Any]:
    import numpy as np

    with np.load(file) as arrays:
        return [arrays[name] for name in sorted(arrays.files)]


class _Runner:
    """Runs inferences over the images in turn."""

    def __init__(self, predictor: Any, images: list[Any], cores: Sequence[int]) -> None:
        self._predictor = predictor
        self._images = images
        self._cores = cores
        self._next = 0
        self._bytes = sum(image.nbytes for image in images)

    def once(self) -> Row:
        """Run one inference and time its stages."""
        image = self._images[self._next]
        self._next = (self._next + 1) % len(self._images)
        predictor = self._predictor
        clock: Callable[[], int] = time.perf_counter_ns
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
        cpu = time.process_time_ns()
        t0 = clock()
        batch, placement = predictor.preprocess(image)
        t1 = clock()
        raw = predictor.core(batch)
        t2 = clock()
        predictor.postprocess(raw, placement)
        t3 = clock()
        cpu = time.process_time_ns() - cpu
        switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches
        return t1 - t0, t2 - t1, t3 - t2, t3 - t0, cpu, switches

    def sample(self, seconds: float, at_least: int, at_most_seconds: float) -> dict[str, Any]:
        """Run for so long and so often, and say what else ran on our cores meanwhile."""
        rows: list[Row] = []
        gc.collect()
        gc.disable()
        before, own, start = _busy(self._cores), time.process_time(), time.monotonic()
        try:
            while (passed := time.monotonic() - start) < at_most_seconds:
                if passed >= seconds and len(rows) >= at_least:
                    break
                rows.append(self.once())
        finally:
            gc.enable()
        passed, own, after = time.monotonic() - start, time.process_time() - own, _busy(self._cores)
        busy, steal = (b - a for a, b in zip(before, after, strict=True))
        return {
            "rows": rows,
            "foreign": max(0.0, busy - own) / passed,
            "steal": steal / passed,
            "peak_bytes": _peak_bytes() - self._bytes,
        }


def _busy(cores: Sequence[int]) -> tuple[float, float]:
    """Return (seconds these cores worked, seconds the hypervisor took from them) since the machine started."""
    tick = os.sysconf("SC_CLK_TCK")
    wanted = {f"cpu{core}" for core in cores}
    work = steal = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in wanted:
            user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, ticks[:8])
            work += user + nice + system + irq + softirq
            steal += stolen
    return work / tick, steal / tick


def _peak_bytes() -> int:
    """Return the peak resident memory of this process (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
