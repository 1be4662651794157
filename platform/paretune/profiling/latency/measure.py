"""Measurement of one artefact's latency in fresh processes, one after another, until enough of them ran undisturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, median_low
from typing import Any

import numpy as np

from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.environment import environment
from paretune.profiling.gpu.contention import GpuMonitor, GpuSnapshot, foreigners, monitor_device
from paretune.profiling.latency.memory_contention import SLOWER, MemoryContention, neighbours
from paretune.profiling.latency.result import Latency, disturbance, unsettled
from paretune.profiling.latency.samples import COLD, MeasurementProtocol, Rows, SampleBatch
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import LOADER, Worker
from paretune.system.cpu_cores import shares
from paretune.system.device_lock import exclusive_device

LEAD_IN = 5
"""Inferences after copies of memory that do not count, as caches have to be filled again."""


@dataclass(frozen=True)
class _Window:
    """Samples that a process took without a pause."""

    batch: SampleBatch
    seen: Sequence[GpuSnapshot]
    slowed: float | None


@dataclass(frozen=True)
class _Repetition:
    """All samples of one process that are kept."""

    windows: Sequence[_Window]
    steady: bool
    facts: dict[str, Any]
    dropped: int

    @property
    def rows(self) -> Rows:
        """The samples."""
        return np.concatenate([window.batch.rows for window in self.windows])

    @property
    def elsewhere(self) -> list[Mapping[str, float]]:
        """The clocks of others' use of the cores in each window."""
        return [window.batch.elsewhere for window in self.windows]

    @property
    def peak_bytes(self) -> int:
        """The peak of resident memory."""
        return max(window.batch.peak_bytes for window in self.windows)

    @property
    def allocator_bytes(self) -> int | None:
        """The peak of torch's allocator on a GPU, or None."""
        return max((size for window in self.windows if (size := window.batch.allocator_bytes)), default=None)

    @property
    def seen(self) -> list[GpuSnapshot]:
        """The GPU, before and after each window."""
        return [look for window in self.windows for look in window.seen]


def _repeated(
    worker: Worker, watch: GpuMonitor, memory: MemoryContention, protocol: MeasurementProtocol, number: int
) -> _Repetition:
    """Sample in one process; if others use the memory, sample on for a share of the patience and keep the calmer half.

    A repetition beyond the requested ones does not wait.
    """
    share = protocol.patience / protocol.repetitions if number < protocol.repetitions else 0.0
    before, plateau, windows, end = memory.look(), worker.warm_up(), list[_Window](), None
    while True:
        lead_in, image = LEAD_IN if windows else 0, (number + len(windows)) * protocol.samples
        with watch.around(worker.pid) as seen:
            batch = worker.sample(protocol.seconds, protocol.samples, lead_in=lead_in, image=image)
        after = memory.look()
        windows.append(_Window(batch, seen, memory.slowed([before, after])))
        before = after
        if end is None:
            calm = (windows[0].slowed or 0.0) <= SLOWER
            end = 0.0 if calm else time.monotonic() + share
        if time.monotonic() >= end:
            kept = _calmer(windows)
            return _Repetition(kept, plateau, worker.facts, len(windows) - len(kept))


def _calmer(windows: Sequence[_Window]) -> list[_Window]:
    """Return, in their order, the half of the windows during which others used the memory least."""
    ranked = sorted(range(len(windows)), key=lambda number: windows[number].slowed or 0.0)
    return [windows[number] for number in sorted(ranked[: (len(windows) + 1) // 2])]


def measure(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    *,
    loader: str = LOADER,
    memory_of: Callable[[Target, float], AbstractContextManager[MemoryContention]] = neighbours,
) -> Latency:
    """Measure one artefact, alone on the target's device.

    A disturbed repetition is repeated, and further ones are run until the median's interval is narrow enough
    (``DeviceKind.narrow``) and the repetitions agree, within ``protocol.spare``; a single repetition stays alone. If
    other guests of the host use the memory, repetitions sample on within ``protocol.patience``, and the calmer half is
    kept. Samples are chosen by what else ran, never by their times.

    Args:
        artefact: folder of the artefact.
        images: RGB uint8 images, or a file of ``saved_images``; inferences take them in turn, and each repetition
            begins with another one.
        target: device and threads.
        protocol: numbers and lengths of repetitions, time limits.
        loader: ``module:function`` (folder, target) → predictor.
        memory_of: (target, patience) → context of the contention of memory.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
        RuntimeError: a measuring process died or hung, or two of them have different facts.
    """
    kept: list[_Repetition] = []
    dropped, spare = 0, protocol.spare
    with (
        exclusive_device(target.device),
        saved_images(images) as file,
        monitor_device(target) as watch,
        memory_of(target, protocol.patience) as memory,
    ):
        surroundings = environment(target)
        while (missing := len(kept) < protocol.repetitions) or (
            spare and unsettled([one.rows for one in kept], target)
        ):
            with Worker(artefact, file, target, protocol, loader) as worker:
                one = _repeated(worker, watch, memory, protocol, len(kept))
            others = disturbance(one.rows, shares(one.elsewhere), target) + foreigners(one.seen)
            again = spare > 0 and bool(others)
            spare -= again or not missing
            if again:
                dropped += 1
            else:
                kept.append(one)
    cold = {name: median(one.facts.pop(name) for one in kept) for name in COLD}
    if any(one.facts != kept[0].facts for one in kept):
        raise RuntimeError(f"the repetitions did not run the same: {[one.facts for one in kept]}")
    windows = [window for one in kept for window in one.windows]
    return Latency(
        rows=np.concatenate([one.rows for one in kept]),
        repetition=np.repeat(np.arange(len(kept)), [len(one.rows) for one in kept]),
        target=target,
        memory_mib_peak=median_low(one.peak_bytes for one in kept) / 2**20,  # the first may have compiled
        allocator_mib_peak=max((size / 2**20 for one in kept if (size := one.allocator_bytes)), default=None),
        elsewhere=shares([window.batch.elsewhere for window in windows]),
        steady=all(one.steady for one in kept),
        cold=cold,
        facts={**surroundings, **kept[0].facts},
        retaken=dropped + sum(one.dropped for one in kept),
        gpu=watch.contention([look for one in kept for look in one.seen]),
        slowed=tuple(window.slowed for window in windows),
    )
