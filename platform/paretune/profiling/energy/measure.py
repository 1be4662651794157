"""The energy of an inference: a fresh process that predicts for some seconds, and the counters of the device.

On a CPU that of all its packages, on CUDA that of the GPU alone. Counters tell what the whole device takes, whoever
uses it; power is never estimated from a data sheet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.energy.rapl import POWERCAP, RaplZone, joules, packages
from paretune.profiling.gpu.contention import foreigners, monitor_gpu
from paretune.profiling.gpu.nvml import opened
from paretune.profiling.gpu.profiler import GPUProfiler
from paretune.profiling.latency.samples import MeasurementProtocol, SampleBatch, column
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import LOADER, Worker
from paretune.system.cpu_cores import passed, reading
from paretune.system.device_lock import exclusive_device
from paretune.system.physical_gpu import NoGpuError, number_of

WINDOW, FINALIST_WINDOW, IDLE = 5.0, 10.0, 5.0
"""Seconds: NVML's counter moves every 100 ms, which is 2 % of the first and 1 % of the second."""
RAPL = "rapl"
OTHERS = 0.1
"""Share of a core above which others' work, anywhere on the machine, is told; some of ours is between inferences."""


@dataclass(frozen=True)
class Energy:
    """What an artefact takes on a target. A figure that is None is not known; ``reasons`` says why."""

    source: str
    """``nvml_counter``, ``nvml_power_integrated``, ``rapl``, or ``unavailable:`` and the reason."""
    mj_image: float | None = None
    """Millijoules an image, of all that the device took meanwhile."""
    mj_image_net: float | None = None
    """The same without what the idle device takes in that time."""
    watts: float | None = None
    idle_watts: float | None = None
    seconds: float = 0.0
    images: int = 0
    """Inferences in these seconds."""
    celsius: tuple[float, float] | None = None
    """Of the GPU, before and after."""
    notes: tuple[str, ...] = ()
    """What a reader must know; each begins with its flag."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    """Whether it is unknown because a process failed that should have been able to tell."""

    def figures(self) -> dict[str, float | None]:
        """Return the figures by the names they are logged under."""
        return {"energy_mj_image": self.mj_image, "energy_mj_image_net": self.mj_image_net}

    def tree(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "notes": list(self.notes), "celsius": self.celsius and list(self.celsius)}

    def added_to(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """Return the tree of a latency with the figures, or their reasons, beside its own."""
        known = {name: value for name, value in self.figures().items() if value is not None}
        metrics, reasons = {**told["metrics"], **known}, {**told["reasons"], **self.reasons}
        return {**told, "metrics": metrics, "reasons": reasons, "energy": self.tree()}

    @property
    def lines(self) -> tuple[str, ...]:
        """Say it for people."""
        unknown = [f"{name}: not known, {why}" for name, why in self.reasons.items()]
        if self.mj_image is None:
            return tuple(unknown[:1])
        net = "" if self.mj_image_net is None else f", {self.mj_image_net:.3g} mJ above idle"
        idle = "" if self.idle_watts is None else f", idle {self.idle_watts:.3g} W"
        how = f"{self.watts:.3g} W on average{idle}; {self.source}, {self.images} images in {self.seconds:.1f} s"
        return (f"energy {self.mj_image:.3g} mJ an image{net}: {how}", *unknown, *self.notes)


def unavailable(reason: str, *, failed: bool = False) -> Energy:
    """Return that nothing is known, and why."""
    return Energy(f"unavailable:{reason}", reasons=dict.fromkeys(Energy("").figures(), reason), failed=failed)


def energy(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    *,
    seconds: float = WINDOW,
    idle_seconds: float = IDLE,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    loader: str = LOADER,
    powercap: Path = POWERCAP,
) -> Energy:
    """Measure what an inference takes, alone on the target's device: idle first, then a warmed-up process.

    Where no counter can be read nothing is started.

    Args:
        artefact: its folder.
        images: RGB uint8, or a file of ``images.saved_images``; inferences take them in turn.
        target: device and threads.
        seconds: of inferences, at least ``WINDOW``; ``FINALIST_WINDOW`` for what is published.
        idle_seconds: before, in which nothing of ours runs.
        protocol: warm-up, and how long an answer may take.
        loader: ``module:function`` (folder, target) → predictor.
        powercap: where Linux shows the CPU's counters.

    Returns:
        The figures; when the process died or hung, that as the reason.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
        ValueError: the window is too short for the counters.
    """
    if seconds < WINDOW:
        raise ValueError(f"seconds is {seconds:g}: counters of energy need {WINDOW:g} s at least")
    meter = _meter(target, powercap)
    if isinstance(meter, str):
        return unavailable(meter)
    try:
        with exclusive_device(target.device), saved_images(images) as file:
            with meter.span() as idle:
                time.sleep(idle_seconds)
            with Worker(artefact, file, target, protocol, loader) as worker:
                worker.warm_up()
                with monitor_gpu(target) as watch, watch.around(worker.pid) as looks, meter.span() as busy:
                    batch = worker.sample(seconds, 1)
    except RuntimeError as error:
        return unavailable(str(error), failed=True)
    others = foreigners(looks) if target.device == "cuda" else _others(busy, batch)
    notes = [f"contended: {'; '.join(others)}, and that energy is counted too"] if others else []
    if (told := watch.told(looks)) is not None:
        notes += told.notes
    return _figures(idle, busy, len(batch.rows), tuple(notes))


@dataclass
class MeterReading:
    """What a meter saw during a block; filled when it ends."""

    joules: float | None = None
    seconds: float = 0.0
    source: str = ""
    reason: str = ""
    celsius: tuple[float, float] | None = None
    work: float | None = None
    """CPU seconds that the whole machine worked."""

    @property
    def watts(self) -> float | None:
        """Return the mean power."""
        return None if self.joules is None else self.joules / self.seconds


@dataclass(frozen=True)
class _Packages:
    """The CPU's counters."""

    zones: tuple[RaplZone, ...]

    @contextmanager
    def span(self) -> Iterator[MeterReading]:
        span = MeterReading(source=RAPL)
        before, work, start = self._read(span), _work(), time.monotonic()
        yield span
        after, span.seconds = self._read(span), time.monotonic() - start
        span.work = passed(work, _work()).get("foreign")
        if before and after:
            span.joules = joules(self.zones, before, after)

    def _read(self, span: MeterReading) -> list[int]:
        try:
            return [zone.microjoules() for zone in self.zones]
        except (OSError, ValueError) as error:
            span.reason = f"the CPU's counters could not be read: {error}"
            return []


@dataclass(frozen=True)
class _Gpu:
    """The GPU's counter, or its power."""

    number: int
    """CUDA's, in this process."""

    @contextmanager
    def span(self) -> Iterator[MeterReading]:
        span = MeterReading()
        with GPUProfiler(self.number) as profiler:
            yield span
        told = profiler.report
        span.joules, span.seconds, span.source = told.energy_j, told.wall_s, told.energy_source
        span.reason = told.reasons.get("energy_j", "")
        if told.celsius is not None:
            span.celsius = (told.celsius.first, told.celsius.last)


def unsupported_reason(target: Target) -> str | None:
    """Tell why this machine does not say what the device of a target takes; None where it does."""
    meter = _meter(target, POWERCAP)
    return meter if isinstance(meter, str) else None


def _meter(target: Target, powercap: Path) -> _Packages | _Gpu | str:
    """Return what can be read of the device, or why nothing can."""
    if target.device == "cpu":
        zones = packages(powercap)
        return zones if isinstance(zones, str) else _Packages(zones)
    try:
        with opened(number_of(target.device)) as gpu:
            if gpu.joules() is None and gpu.read().watts is None:
                counter, power = gpu.reasons["energy_j"], gpu.reasons["watts"]
                return counter if counter == power else f"energy counter: {counter}; power: {power}"
    except NoGpuError as error:
        return str(error)
    return _Gpu(number_of(target.device))


def _work() -> dict[str, float]:
    """Return the CPU seconds of all cores so far, as ``foreign``: nothing of it is taken out as our own."""
    return reading(range(os.cpu_count() or 1), 0.0)


def _others(busy: MeterReading, batch: SampleBatch) -> list[str]:
    """Say how much of the machine's work was not the measured process's: packages are counted whole."""
    if busy.work is None:
        return []
    foreign = (busy.work - float(column(batch.rows, "latency_cpu_ns").sum()) / 1e9) / busy.seconds
    return [f"others used {foreign:.0%} of a core"] if foreign > OTHERS else []


def _figures(idle: MeterReading, busy: MeterReading, images: int, notes: tuple[str, ...]) -> Energy:
    """Work out the figures; idle and busy power of two kinds are not taken from each other."""
    if busy.joules is None or busy.watts is None:
        return unavailable(busy.reason)
    net, reasons = None, {}
    if idle.watts is None or idle.source != busy.source:
        reasons["energy_mj_image_net"] = f"idle power is not known by {busy.source}: {idle.reason or idle.source}"
    elif busy.watts <= idle.watts:
        reasons["energy_mj_image_net"] = f"{busy.watts:.3g} W at work is not above the {idle.watts:.3g} W of idling"
    else:
        net = (busy.watts - idle.watts) * busy.seconds / images * 1e3
    return Energy(
        source=busy.source,
        mj_image=busy.joules / images * 1e3,
        mj_image_net=net,
        watts=busy.watts,
        idle_watts=idle.watts,
        seconds=busy.seconds,
        images=images,
        celsius=busy.celsius,
        notes=notes,
        reasons=reasons,
    )
