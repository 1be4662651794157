"""The kernels of one inference by name: their time, share of the peaks, and what bounds them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from paretune.profiling.nsight.csv_parser import KernelLaunch, NsightRule

KernelBound = Literal["compute", "memory", "latency"]
BOUND_FROM = 60.0
"""A kernel that reaches less than this percentage of both peaks, compute and memory, counts as bound by latency.

It is the threshold of NVIDIA's own rule ``SOLBottleneck`` (section SpeedOfLight of Nsight Compute)."""
ELAPSED, ACTIVE = "avg.pct_of_peak_sustained_elapsed", "avg.pct_of_peak_sustained_active"
DURATION = ("gpu__time_duration.sum", "gpu__time_duration.avg", "gpu__time_active.sum")
SM = (f"sm__throughput.{ELAPSED}", f"sm__throughput.{ACTIVE}")
MEMORY = (f"gpu__compute_memory_throughput.{ELAPSED}",)
DRAM = (f"gpu__dram_throughput.{ELAPSED}", f"dram__throughput.{ELAPSED}")
OCCUPANCY = (f"sm__warps_active.{ACTIVE}",)
WAVES = ("launch__waves_per_multiprocessor",)
PASSES = ("profiler__replayer_passes",)
"""Names of the metric for a figure, the preferred one first: they depend on the chip and on the version of ncu."""


@dataclass(frozen=True)
class Kernel:
    """All launches of one kernel in one inference; percentages and waves are means, weighted by time."""

    name: str
    launches: int
    seconds: float
    """Time of all launches under the profiler; it serves for shares and is never a latency."""
    share: float
    """Share of the time of all kernels, 0 to 1."""
    sm_percent: float | None
    """Share of the peak of the busiest compute unit, in percent."""
    memory_percent: float | None
    """Share of the peak of the busiest part of the memory, caches included, in percent."""
    dram_percent: float | None
    """Share of the peak of the DRAM, in percent."""
    occupancy_percent: float | None
    """Active warps as a share of those that the chip can hold, in percent."""
    waves: float | None
    """How often the blocks fill the whole GPU."""
    bound: KernelBound | None
    unknown: dict[str, str]
    """Figure → why it is None."""


@dataclass(frozen=True)
class KernelHint:
    """A proposal of one of Nsight Compute's rules for a kernel."""

    kernel: str
    rule: str
    text: str
    speedup_percent: float
    """The rule's own estimate for the kernel."""
    saves: float
    """The estimate as a share of the time of all kernels, 0 to 1."""


def by_name(launches: Iterable[KernelLaunch]) -> tuple[Kernel, ...]:
    """Return the kernels by name, the longest first; launches without a duration are left out."""
    timed = [(launch, seconds) for launch in launches if (seconds := launch.number(*DURATION)) is not None]
    groups: dict[str, list[tuple[KernelLaunch, float]]] = {}
    for launch, seconds in timed:
        groups.setdefault(launch.name, []).append((launch, seconds))
    whole = sum(seconds for _, seconds in timed)
    kernels = (_kernel(name, group, whole) for name, group in groups.items())
    return tuple(sorted(kernels, key=lambda kernel: (-kernel.seconds, kernel.name)))


def advice(launches: Iterable[KernelLaunch], rules: Iterable[NsightRule]) -> tuple[KernelHint, ...]:
    """Return the proposals of rules that estimate a speed-up of a whole kernel, the largest saving first.

    A rule occurs once for each kernel, with the launch where it would save most.
    """
    timed = {launch.id: (launch.name, launch.number(*DURATION) or 0.0) for launch in launches}
    whole = sum(seconds for _, seconds in timed.values())
    best: dict[tuple[str, str], KernelHint] = {}
    for rule in rules:
        if rule.kind != "OPT" or rule.scope != "global" or not rule.speedup or rule.launch not in timed or not whole:
            continue
        name, seconds = timed[rule.launch]
        hint = KernelHint(name, rule.name, rule.text, rule.speedup, rule.speedup / 100 * seconds / whole)
        other = best.get((name, rule.name))
        if other is None or hint.saves > other.saves:
            best[name, rule.name] = hint
    return tuple(sorted(best.values(), key=lambda hint: -hint.saves))


def bound_by(sm: float | None, memory: float | None) -> KernelBound | None:
    """Return what bounds a kernel by its percentages of the peaks (``BOUND_FROM``); None if one of them is unknown."""
    if sm is None or memory is None:
        return None
    if max(sm, memory) < BOUND_FROM:
        return "latency"
    return "compute" if sm >= memory else "memory"


def _kernel(name: str, group: Sequence[tuple[KernelLaunch, float]], whole: float) -> Kernel:
    seconds = sum(time for _, time in group)
    unknown: dict[str, str] = {}

    def mean(figure: str, names: Sequence[str]) -> float | None:
        values = [(launch.number(*names), time) for launch, time in group]
        known = [(value, time) for value, time in values if value is not None]
        if len(known) < len(values) or not seconds:
            unknown[figure] = f"{names[0]} is not in the report of {len(values) - len(known)} of {len(values)} launches"
            return None
        return sum(value * time for value, time in known) / seconds

    sm, memory, dram = mean("sm_percent", SM), mean("memory_percent", MEMORY), mean("dram_percent", DRAM)
    bound = bound_by(sm, dram if memory is None else memory)
    if bound is None:
        unknown["bound"] = unknown.get("sm_percent") or unknown["memory_percent"]
    return Kernel(
        name=name,
        launches=len(group),
        seconds=seconds,
        share=seconds / whole if whole else 0.0,
        sm_percent=sm,
        memory_percent=memory,
        dram_percent=dram,
        occupancy_percent=mean("occupancy_percent", OCCUPANCY),
        waves=mean("waves", WAVES),
        bound=bound,
        unknown=unknown,
    )
