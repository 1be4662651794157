"""Contention on a GPU during a measurement: other processes that computed there, and limits of its clocks.

Nothing is read while inferences are timed: the driver keeps samples of who computed, which are read afterwards.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from paretune.core.devices import device_kind, number_of
from paretune.core.target import Target
from paretune.profiling.gpu.nvml import Gpu, GpuReading, opened
from paretune.system.physical_gpu import NoGpuError

FIGURES = ("sm_mhz", "memory_mhz", "celsius", "watts", "memory_mib")


@dataclass(frozen=True)
class GpuSnapshot:
    """The state of the GPU at one moment."""

    reading: GpuReading
    foreign: tuple[int, ...] | str
    """Processes that are not ours and computed since the last snapshot, or why they are not known.

    If the driver has no samples of who computed, all other processes on the GPU."""
    own_mib: float | None = None
    """Memory of the measured processes on the GPU."""
    unseen: str = ""
    """Why it is not known who else computed since the last snapshot."""


@dataclass(frozen=True)
class GpuContention:
    """All snapshots of a measurement: one before and one after each repetition, or round of a comparison."""

    looks: tuple[GpuSnapshot, ...]
    gpu: str | None = None
    uuid: str | None = None
    driver: str | None = None
    missing: str = ""
    """Why the GPU was not watched; empty if it was."""

    @property
    def contended(self) -> tuple[str, ...]:
        """Return who else computed on the GPU; empty if nobody did, or it is not known."""
        return tuple(foreigners(self.looks))

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for readers of the figures, without ``contended``."""
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
        """Return the largest memory of the measured processes on the GPU in MiB, or why it is not known.

        Libraries keep memory once they have it, so that snapshots before and after hold the peak.
        """
        sizes = [look.own_mib for look in self.looks if look.own_mib is not None]
        unknown = next((look.foreign for look in self.looks if isinstance(look.foreign, str)), "NVML does not tell")
        return max(sizes) if sizes else self.missing or unknown

    def tree(self) -> dict[str, Any]:
        """Return the snapshots as plain data: of each figure its values in their order."""
        tree: dict[str, Any] = {"gpu": self.gpu, "uuid": self.uuid, "driver": self.driver}
        if self.missing:
            return {**tree, "reason": self.missing}
        tree |= {figure: [getattr(look.reading, figure) for look in self.looks] for figure in FIGURES}
        tree["limits"] = [None if (met := look.reading.limits) is None else sorted(met) for look in self.looks]
        tree["own_mib"] = [look.own_mib for look in self.looks]
        tree["foreign"] = [look.foreign if isinstance(look.foreign, str) else list(look.foreign) for look in self.looks]
        return tree


class GpuMonitor:
    """A source of snapshots of a target's GPU."""

    def __init__(self, gpu: Gpu | None, missing: str = "") -> None:
        """Set the GPU; None for a CPU, or with the reason why the GPU cannot be watched."""
        self._gpu, self._missing = gpu, missing

    @contextmanager
    def around(self, *workers: int, own: int | None = None) -> Iterator[list[GpuSnapshot]]:
        """Yield a list that gets a snapshot at the begin and at the end of the block; none without a GPU.

        Args:
            workers: numbers of the measured processes, which use the GPU already.
            own: the process whose memory is read; None adds up that of all of them.
        """
        looks: list[GpuSnapshot] = []
        start = time.time()
        looks += self._look(workers, start, own)
        yield looks
        looks += self._look(workers, start, own)

    def contention(self, looks: Sequence[GpuSnapshot]) -> GpuContention | None:
        """Return the contention in these snapshots; None for a CPU."""
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


def monitor_device(target: Target) -> AbstractContextManager[GpuMonitor]:
    """Return a context of a monitor of a target's device; without one for the device, it takes no snapshots."""
    monitor = device_kind(target.device).monitor(number_of(target.device))
    return nullcontext(GpuMonitor(None)) if monitor is None else monitor


@contextmanager
def nvml_monitor(number: int) -> Iterator[GpuMonitor]:
    """Yield a monitor of a GPU by its number in CUDA; without NVML it takes no snapshots, and has the reason."""
    with ExitStack() as stack:
        try:
            watch = GpuMonitor(stack.enter_context(opened(number)))
        except NoGpuError as error:
            watch = GpuMonitor(None, f"the GPU is not watched: {error}")
        yield watch


def foreigners(looks: Sequence[GpuSnapshot]) -> list[str]:
    """Return a line with the processes of others on the GPU; none if there are no such processes, or none is known."""
    met = sorted({pid for look in looks if not isinstance(look.foreign, str) for pid in look.foreign})
    one = len(met) == 1
    named = ", ".join(map(str, met))
    return [f"{'process' if one else 'processes'} {named} used the GPU too"] if met else []


def _shared(
    gpu: Gpu, workers: Sequence[int], computed: Collection[int] | None, measured: Sequence[int]
) -> tuple[tuple[int, ...] | str, float | None]:
    """Return the processes of others on the GPU, and the memory of the measured ones in MiB.

    A process that only holds a CUDA context, as after a training, disturbs nobody: it counts only if the driver has no
    samples of who computed. In a container the numbers may be those of another namespace: this is so if the workers,
    which are on the GPU, are not among them.
    """
    processes = gpu.processes()
    if processes is None:
        return gpu.reasons["processes"], None
    ours = [pid for pid in processes if _session(pid) in workers]
    if not ours:
        what = f"{len(processes)} processes by numbers of another namespace" if processes else "no process"
        return f"NVML shows {what}, not the one that is measured (a container may hide it)", None
    memory = [used for pid in ours if _session(pid) in measured and (used := processes[pid]) is not None]
    ours = [*ours, 0, os.getpid()]  # this process sleeps meanwhile
    met = processes if computed is None else computed
    met = {pid for pid in met if pid not in ours and _session(pid) not in workers}
    return tuple(sorted(met)), sum(memory) if memory else None


def _session(pid: int) -> int | None:
    """Return the session of a process, or None; a worker leads a session, with all processes that it starts."""
    with suppress(OSError, OverflowError):  # NVML has been seen to return numbers of no process
        return os.getsid(pid)
    return None
