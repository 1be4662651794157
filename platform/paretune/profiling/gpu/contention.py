"""The GPU while something is measured on it: who else computes there, and what its clocks were held back by.

Nobody looks while inferences are timed: the driver's own samples of who computed are read afterwards.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from paretune.core.target import Target
from paretune.profiling.gpu.nvml import Gpu, GpuReading, opened
from paretune.system.physical_gpu import NoGpuError, number_of

FIGURES = ("sm_mhz", "memory_mhz", "celsius", "watts", "memory_mib")


@dataclass(frozen=True)
class GpuSnapshot:
    """One look at the GPU."""

    reading: GpuReading
    foreign: tuple[int, ...] | str
    """Processes that are not ours and were seen computing since the look before (where the driver does not tell, that
    are there), or why they are not known."""
    own_mib: float | None = None
    """Memory of the GPU that the processes that are measured have."""
    unseen: str = ""
    """Why it is not known who else computed since the look before."""


@dataclass(frozen=True)
class GpuContention:
    """All looks of a measurement: one before and one after each repetition, or round of a comparison."""

    looks: tuple[GpuSnapshot, ...]
    gpu: str | None = None
    uuid: str | None = None
    driver: str | None = None
    missing: str = ""
    """Why there was nothing to look at."""

    @property
    def contended(self) -> tuple[str, ...]:
        """Say who else computed on the GPU; nothing when nobody did, or that is not known."""
        return tuple(foreigners(self.looks))

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what a reader of the figures must know; contention is told apart (``contended``)."""
        notes = []
        if why := self.missing or next((look.foreign for look in self.looks if isinstance(look.foreign, str)), ""):
            notes.append(f"exclusivity unknown: {why}")
        elif why := next((look.unseen for look in self.looks if look.unseen), ""):
            notes.append(f"exclusivity known before and after repetitions only: {why}")
        met = Counter(limit for look in self.looks for limit in look.reading.throttled)
        if met:
            times = ", ".join(f"{limit} in {count}" for limit, count in sorted(met.items()))
            notes.append(f"throttled: {times} of {len(self.looks)} looks before and after repetitions")
        elif not any(look.reading.limits is not None for look in self.looks):
            notes.append(f"throttling unknown: {self.missing or 'NVML does not tell what holds the clocks back'}")
        return tuple(notes)

    @property
    def own_mib(self) -> float | str:
        """The most memory of the GPU (MiB) that was seen in use by what is measured, or why that is not known.

        Libraries keep what they once took, so that looks before and after see the peak.
        """
        found = [look.own_mib for look in self.looks if look.own_mib is not None]
        unknown = next((look.foreign for look in self.looks if isinstance(look.foreign, str)), "NVML does not tell")
        return max(found) if found else self.missing or unknown

    def tree(self) -> dict[str, Any]:
        """Return it as plain data; of each figure the values of all looks in their order."""
        told: dict[str, Any] = {"gpu": self.gpu, "uuid": self.uuid, "driver": self.driver}
        if self.missing:
            return {**told, "reason": self.missing}
        told |= {figure: [getattr(look.reading, figure) for look in self.looks] for figure in FIGURES}
        told["limits"] = [None if (met := look.reading.limits) is None else sorted(met) for look in self.looks]
        told["own_mib"] = [look.own_mib for look in self.looks]
        told["foreign"] = [look.foreign if isinstance(look.foreign, str) else list(look.foreign) for look in self.looks]
        return told


class GpuMonitor:
    """Looks at the GPU of a target, before and after."""

    def __init__(self, gpu: Gpu | None, missing: str = "") -> None:
        """Take the GPU; None for a CPU, or with the reason why there is nothing to look at."""
        self._gpu, self._missing = gpu, missing

    @contextmanager
    def around(self, *workers: int, own: int | None = None) -> Iterator[list[GpuSnapshot]]:
        """Yield a list of two looks, filled at the begin and the end of the block; empty without a GPU.

        Args:
            workers: numbers of the processes that are measured; they use the GPU already.
            own: the one whose memory is told; None adds up all of them.
        """
        looks: list[GpuSnapshot] = []
        start = time.time()
        looks += self._look(workers, start, own)
        yield looks
        looks += self._look(workers, start, own)

    def told(self, looks: Sequence[GpuSnapshot]) -> GpuContention | None:
        """Return what was seen; None where there is no GPU to be watched."""
        if self._gpu is None:
            return GpuContention((), missing=self._missing) if self._missing else None
        return GpuContention(tuple(looks), self._gpu.name, self._gpu.uuid, self._gpu.driver)

    def _look(self, workers: Sequence[int], since: float, own: int | None) -> list[GpuSnapshot]:
        if self._gpu is None:
            return []
        computed = self._gpu.computed(since)
        unseen = self._gpu.reasons["computed"] if computed is None else ""
        measured = workers if own is None else (own,)
        return [GpuSnapshot(self._gpu.read(), *_shared(self._gpu, workers, computed, measured), unseen)]


@contextmanager
def monitor_gpu(target: Target) -> Iterator[GpuMonitor]:
    """Open the GPU that a worker takes and its lock is for; a CPU, or a GPU without NVML, needs no looking."""
    with ExitStack() as stack:
        watch = GpuMonitor(None)
        if target.device != "cpu":
            try:
                watch = GpuMonitor(stack.enter_context(opened(number_of(target.device))))
            except NoGpuError as error:
                watch = GpuMonitor(None, f"the GPU is not watched: {error}")
        yield watch


def foreigners(looks: Sequence[GpuSnapshot]) -> list[str]:
    """Say which processes that are not ours were met; nothing when none were, or that is not known."""
    met = sorted({pid for look in looks if not isinstance(look.foreign, str) for pid in look.foreign})
    one = len(met) == 1
    named = ", ".join(map(str, met))
    return [f"{'process' if one else 'processes'} {named} used the GPU too"] if met else []


def _shared(
    gpu: Gpu, workers: Sequence[int], computed: Collection[int] | None, measured: Sequence[int]
) -> tuple[tuple[int, ...] | str, float | None]:
    """Return the processes on the GPU other than the workers', and the memory of those that are measured (MiB).

    One that is there disturbs nobody by that: a process that has trained keeps its CUDA context until it ends. It
    counts only where the driver does not tell who computed. In a container their numbers may mean nothing. The workers
    are on the GPU, so numbers among which their own are missing are those of another namespace.
    """
    found = gpu.processes()
    if found is None:
        return gpu.reasons["processes"], None
    ours = [pid for pid in found if _session(pid) in workers]
    if not ours:
        what = f"{len(found)} processes by numbers of another namespace" if found else "no process"
        return f"NVML shows {what}, not the one that is measured (a container may hide it)", None
    memory = [used for pid in ours if _session(pid) in measured and (used := found[pid]) is not None]
    ours = [*ours, 0, os.getpid()]  # our own process sleeps meanwhile
    met = found if computed is None else computed
    met = {pid for pid in met if pid not in ours and _session(pid) not in workers}
    return tuple(sorted(met)), sum(memory) if memory else None


def _session(pid: int) -> int | None:
    """Return the session of a process; a worker leads one of its own, in which all that it starts is."""
    with suppress(OSError, OverflowError):  # NVML has been seen to tell numbers of nobody
        return os.getsid(pid)
    return None
