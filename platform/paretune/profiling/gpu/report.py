"""What a profile of a block on a GPU says, as figures, plain data and a few lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from paretune.profiling.gpu.nvml import BAD_BITS

COUNTER_STEP = 0.1
"""Seconds within which NVML's energy counter moves; sources say 10 to 100 ms."""
COUNTER, INTEGRATED = "nvml_counter", "nvml_power_integrated"


@dataclass(frozen=True)
class SampleRange:
    """How a figure moved over the samples."""

    low: float
    mean: float
    high: float
    first: float
    last: float


@dataclass(frozen=True)
class GpuReport:
    """What one block did. A figure that is None is not known; ``reasons`` says why."""

    wall_s: float
    cpu_s: float
    """CPU time of this process, all its threads."""
    rss_mib_peak: float
    """Peak resident memory of this process so far."""
    cuda_s: float | None
    """Between two CUDA events, before the block and after all that it began on the GPU (torch)."""
    gpu: str | None
    """Its name; ``samples`` is 0 when there is none."""
    uuid: str | None
    driver: str | None
    samples: int
    """Times that the GPU was looked at, begin and end included."""
    utilisation: SampleRange | None
    """Share of the time in which a kernel ran, 0 to 1, whoever's it was."""
    memory_mib_begin: float | None
    memory_mib_peak: float | None
    """Memory of all processes on the GPU: at the begin, and the most that a sample met."""
    sm_mhz: SampleRange | None
    memory_mhz: SampleRange | None
    watts: SampleRange | None
    celsius: SampleRange | None
    energy_j: float | None
    """Of the whole GPU, idle power included; the counter's steps leave ``COUNTER_STEP`` seconds of it uncertain."""
    energy_source: str
    """``nvml_counter``, ``nvml_power_integrated`` (trapezoids over the samples), or ``unavailable:`` and the reason."""
    limits: Mapping[str, float] | None
    """Why clocks were not higher, by NVML's names → share of the samples."""
    raised: str | None = None
    """Class of the exception that ended the block."""
    reasons: Mapping[str, str] = field(default_factory=dict)

    @property
    def throttled(self) -> dict[str, float]:
        """Return those of ``limits`` that make times unfit for comparison."""
        return {name: share for name, share in (self.limits or {}).items() if name in BAD_BITS.values()}

    def tree(self) -> dict[str, Any]:
        """Return it as plain data."""
        return cast("dict[str, Any]", json.loads(json.dumps(asdict(self))))

    def __str__(self) -> str:
        """Say it in a few lines."""
        cuda = "" if self.cuda_s is None else f", CUDA {_seconds(self.cuda_s)}"
        ended = "" if self.raised is None else f"; ended by {self.raised}"
        times = f"wall {_seconds(self.wall_s)}{cuda}, CPU {_seconds(self.cpu_s)}"
        lines = [f"{times}, peak RSS {self.rss_mib_peak:.0f} MiB{ended}"]
        if not self.samples:
            return "\n".join([*lines, f"no GPU: {self.reasons['gpu']}"])
        lines.append(f"{self.gpu or 'a GPU'} ({self.uuid or 'UUID not known'}), {self.samples} samples")
        told = [_range("utilisation", self.utilisation, 100, "%"), _range("SM", self.sm_mhz, 1, "MHz")]
        told += [_range("memory clock", self.memory_mhz, 1, "MHz"), _range("temperature", self.celsius, 1, "°C")]
        told += [_range("power", self.watts, 1, "W")]
        if self.memory_mib_peak is not None:
            told.append(f"memory {self.memory_mib_begin or 0:.0f} MiB at first, {self.memory_mib_peak:.0f} at most")
        lines.append("  " + "; ".join(word for word in told if word))
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
