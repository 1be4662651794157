"""The report of a profiled block: figures, plain data and a few lines of text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from paretune.profiling.gpu.nvml import BAD_BITS

COUNTER_STEP = 0.1
"""Longest step of NVML's energy counter in seconds; sources give 10 to 100 ms."""
COUNTER, INTEGRATED = "nvml_counter", "nvml_power_integrated"


@dataclass(frozen=True)
class SampleRange:
    """The range of a figure over the samples."""

    low: float
    mean: float
    high: float
    first: float
    last: float


@dataclass(frozen=True)
class GpuReport:
    """Figures of one block; one that is None is not known, and ``reasons`` has its reason."""

    wall_s: float
    """Seconds until all work that the block began was done, on torch's current GPU too."""
    cpu_s: float
    """CPU time of all threads of this process."""
    rss_mib_peak: float
    """Peak resident memory of this process so far."""
    gpu: str | None
    """Name of the GPU; without a GPU ``samples`` is 0."""
    uuid: str | None
    driver: str | None
    samples: int
    """Number of samples, those at begin and end included."""
    utilisation: SampleRange | None
    """Share of the time in which a kernel of any process ran, 0 to 1."""
    memory_mib_begin: float | None
    """Memory of all processes on the GPU at the begin."""
    memory_mib_peak: float | None
    """Largest memory of all processes on the GPU in a sample."""
    sm_mhz: SampleRange | None
    memory_mhz: SampleRange | None
    watts: SampleRange | None
    celsius: SampleRange | None
    energy_j: float | None
    """Energy of the whole GPU, idle power included; the counter's steps make ``COUNTER_STEP`` seconds uncertain."""
    energy_source: str
    """``nvml_counter``, ``nvml_power_integrated`` (trapezoids over the samples), or ``unavailable:`` and the reason."""
    limits: Mapping[str, float] | None
    """NVML's name of a reason why clocks were not higher → share of the samples."""
    raised: str | None = None
    """Class of the exception that ended the block."""
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def throttled(self) -> dict[str, float]:
        """Return the entries of ``limits`` that make times unfit for comparison."""
        return {name: share for name, share in (self.limits or {}).items() if name in BAD_BITS.values()}

    def tree(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return cast("dict[str, Any]", json.loads(json.dumps(asdict(self))))

    def __str__(self) -> str:
        """Return the report as a few lines."""
        ended = "" if self.raised is None else f"; ended by {self.raised}"
        times = f"wall {_seconds(self.wall_s)}, CPU {_seconds(self.cpu_s)}"
        lines = [f"{times}, peak RSS {self.rss_mib_peak:.0f} MiB{ended}"]
        if not self.samples:
            return "\n".join([*lines, f"no GPU: {self.reasons['gpu']}"])
        lines.append(f"{self.gpu or 'a GPU'} ({self.uuid or 'UUID not known'}), {self.samples} samples")
        words = [_range("utilisation", self.utilisation, 100, "%"), _range("SM", self.sm_mhz, 1, "MHz")]
        words += [_range("memory clock", self.memory_mhz, 1, "MHz"), _range("temperature", self.celsius, 1, "°C")]
        words += [_range("power", self.watts, 1, "W")]
        if self.memory_mib_peak is not None:
            words.append(f"memory {self.memory_mib_begin or 0:.0f} MiB at first, {self.memory_mib_peak:.0f} at most")
        lines.append("  " + "; ".join(filter(None, words)))
        if self.energy_j is not None:
            unsure = f", ±{COUNTER_STEP / self.wall_s:.0%}" if self.energy_source == COUNTER else ""
            lines.append(f"  energy {self.energy_j:.3g} J ({self.energy_source}{unsure})")
        if self.throttled:
            lines.append(
                "  throttled: " + ", ".join(f"{name} in {share:.0%}" for name, share in self.throttled.items())
            )
        by_reason: dict[str, list[str]] = {}
        for name, why in self.reasons.items():
            by_reason.setdefault(why, []).append(name)
        return "\n".join([*lines, *(f"  not known: {', '.join(names)} ({why})" for why, names in by_reason.items())])


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _range(name: str, found: SampleRange | None, factor: float, unit: str) -> str:
    if found is None:
        return ""
    low, mean, high = (round(value * factor) for value in (found.low, found.mean, found.high))
    return f"{name} {mean} {unit}" + ("" if low == high else f" ({low} to {high})")
