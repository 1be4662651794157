"""The energy of an inference: a fresh process predicts for some seconds, and the device's counters are read.

The energy is that of all packages of a CPU, or that of the GPU alone. Counters measure the whole device, whoever uses
it; power is never estimated from a data sheet.
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
"""Seconds of predicting, of predicting for what is published, and of idling before.

A step of NVML's counter, 100 ms, is 2 % of the first and 1 % of the second."""
RAPL = "rapl"
OTHERS = 0.1
"""Share of a core above which others' work on the machine is noted; part of it is ours, between inferences."""


@dataclass(frozen=True)
class Energy:
    """The energy of an artefact on a target; a figure that is None is not known, and ``reasons`` has its reason."""

    source: str
    """``nvml_counter``, ``nvml_power_integrated``, ``rapl``, or ``unavailable:`` and the reason."""
    mj_image: float | None = None
    """Millijoules per image, of all energy of the device in that time."""
    mj_image_net: float | None = None
    """Millijoules per image above the energy of the idle device in that time."""
    watts: float | None = None
    idle_watts: float | None = None
    seconds: float = 0.0
    images: int = 0
    """Number of inferences in these seconds."""
    celsius: tuple[float, float] | None = None
    """Temperature of the GPU before and after."""
    notes: tuple[str, ...] = ()
    """Remarks for readers of the figures; each begins with its flag."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    failed: bool = False
    """Whether the energy is unknown because a process failed that could have measured it."""

    def figures(self) -> dict[str, float | None]:
        """Return the figures by the names under which they are logged."""
        return {"energy_mj_image": self.mj_image, "energy_mj_image_net": self.mj_image_net}

    def tree(self) -> dict[str, Any]:
        """Return the energy as plain data."""
        return {**asdict(self), "notes": list(self.notes), "celsius": self.celsius and list(self.celsius)}

    def added_to(self, latency: Mapping[str, Any]) -> dict[str, Any]:
        """Return the plain data of a latency with the figures of the energy, or their reasons, added."""
        known = {name: value for name, value in self.figures().items() if value is not None}
        metrics, reasons = {**latency["metrics"], **known}, {**latency["reasons"], **self.reasons}
        return {**latency, "metrics": metrics, "reasons": reasons, "energy": self.tree()}

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the energy as lines of text."""
        unknown = [f"{name}: not known, {why}" for name, why in self.reasons.items()]
        if self.mj_image is None:
            return tuple(unknown[:1])
        net = "" if self.mj_image_net is None else f", {self.mj_image_net:.3g} mJ above idle"
        idle = "" if self.idle_watts is None else f", idle {self.idle_watts:.3g} W"
        how = f"{self.watts:.3g} W on average{idle}; {self.source}, {self.images} images in {self.seconds:.1f} s"
        return (f"energy {self.mj_image:.3g} mJ an image{net}: {how}", *unknown, *self.notes)


def unavailable(reason: str, *, failed: bool = False) -> Energy:
    """Return an energy without figures, with this reason."""
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
    """Measure the energy of an inference, alone on the target's device: first idle, then with a warmed-up process.

    No process is started if no counter can be read.

    Args:
        artefact: folder of the artefact.
        images: RGB uint8 images, or a file of ``saved_images``; inferences take them in turn.
        target: device and threads.
        seconds: time of predicting, at least ``WINDOW``; ``FINALIST_WINDOW`` for what is published.
        idle_seconds: time before it in which the device idles.
        protocol: warm-up and time limits.
        loader: ``module:function`` (folder, target) → predictor.
        powercap: folder with the CPU's counters.

    Returns:
        The figures, or the reason if the process died or hung.

    Raises:
        UserError: the artefact is damaged, or the machine has fewer cores than the target's threads.
        ValueError: ``seconds`` is too short for the counters.
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
    if (gpu := watch.contention(looks)) is not None:
        notes += gpu.notes
    return _figures(idle, busy, len(batch.rows), tuple(notes))


@dataclass
class MeterReading:
    """The reading of a meter over a block, filled at the end of the block."""

    joules: float | None = None
    seconds: float = 0.0
    source: str = ""
    reason: str = ""
    celsius: tuple[float, float] | None = None
    work: float | None = None
    """CPU seconds of the whole machine."""

    @property
    def watts(self) -> float | None:
        """Return the mean power."""
        return None if self.joules is None else self.joules / self.seconds


@dataclass(frozen=True)
class _Packages:
    """The counters of a CPU's packages."""

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
    """The energy counter of a GPU, or its power."""

    number: int
    """CUDA's number of the GPU in this process."""

    @contextmanager
    def span(self) -> Iterator[MeterReading]:
        span = MeterReading()
        with GPUProfiler(self.number) as profiler:
            yield span
        report = profiler.report
        span.joules, span.seconds, span.source = report.energy_j, report.wall_s, report.energy_source
        span.reason = report.reasons.get("energy_j", "")
        if report.celsius is not None:
            span.celsius = (report.celsius.first, report.celsius.last)


def unsupported_reason(target: Target) -> str | None:
    """Return why the energy of a target's device cannot be measured on this machine; None if it can."""
    meter = _meter(target, POWERCAP)
    return meter if isinstance(meter, str) else None


def _meter(target: Target, powercap: Path) -> _Packages | _Gpu | str:
    """Return the meter of the device, or why there is none."""
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
    """Return the CPU seconds of all cores so far as ``foreign``, our own included."""
    return reading(range(os.cpu_count() or 1), 0.0)


def _others(busy: MeterReading, batch: SampleBatch) -> list[str]:
    """Return a line with the share of the machine's work by other processes, whose energy is in the counters too."""
    if busy.work is None:
        return []
    foreign = (busy.work - float(column(batch.rows, "latency_cpu_ns").sum()) / 1e9) / busy.seconds
    return [f"others used {foreign:.0%} of a core"] if foreign > OTHERS else []


def _figures(idle: MeterReading, busy: MeterReading, images: int, notes: tuple[str, ...]) -> Energy:
    """Return the figures; there is no net energy if idle and busy power have different sources."""
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
