"""Meters of energy: a CPU's counters (RAPL), and a GPU's counter or power (NVML)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from paretune.profiling.energy import rapl
from paretune.profiling.energy.rapl import RaplZone
from paretune.profiling.gpu.nvml import opened
from paretune.profiling.gpu.profiler import GPUProfiler
from paretune.system.cpu_cores import passed, reading
from paretune.system.physical_gpu import NoGpuError

RAPL = "rapl"


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
class RaplMeter:
    """The counters of a CPU's packages."""

    zones: tuple[RaplZone, ...]

    @contextmanager
    def span(self) -> Iterator[MeterReading]:
        """Yield the reading of a block, filled at its end."""
        span = MeterReading(source=RAPL)
        before, work, start = self._read(span), _cpu_seconds(), time.monotonic()
        yield span
        after, span.seconds = self._read(span), time.monotonic() - start
        span.work = passed(work, _cpu_seconds()).get("foreign")
        if before and after:
            span.joules = rapl.joules(self.zones, before, after)

    def _read(self, span: MeterReading) -> list[int]:
        try:
            return [zone.microjoules() for zone in self.zones]
        except (OSError, ValueError) as error:
            span.reason = f"the CPU's counters could not be read: {error}"
            return []


@dataclass(frozen=True)
class NvmlMeter:
    """The energy counter of a GPU, or its power."""

    number: int
    """CUDA's number of the GPU in this process."""

    @contextmanager
    def span(self) -> Iterator[MeterReading]:
        """Yield the reading of a block, filled at its end."""
        span = MeterReading()
        with GPUProfiler(self.number) as profiler:
            yield span
        report = profiler.report
        span.joules, span.seconds, span.source = report.energy_j, report.wall_s, report.energy_source
        span.reason = report.reasons.get("energy_j", "")
        if report.celsius is not None:
            span.celsius = (report.celsius.first, report.celsius.last)


def rapl_meter() -> RaplMeter | str:
    """Return the meter of the CPU's packages, or why there is none."""
    zones = rapl.packages(rapl.POWERCAP)
    return zones if isinstance(zones, str) else RaplMeter(zones)


def nvml_meter(number: int) -> NvmlMeter | str:
    """Return the meter of a GPU by its number in CUDA, or why there is none."""
    try:
        with opened(number) as gpu:
            if gpu.joules() is None and gpu.read().watts is None:
                counter, power = gpu.reasons["energy_j"], gpu.reasons["watts"]
                return counter if counter == power else f"energy counter: {counter}; power: {power}"
    except NoGpuError as error:
        return str(error)
    return NvmlMeter(number)


def _cpu_seconds() -> dict[str, float]:
    """Return the CPU seconds of all cores so far as ``foreign``, our own included."""
    return reading(range(os.cpu_count() or 1), 0.0)
