"""The kernels of one inference by name: their time, share of the peaks, arithmetic intensity, and what bounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
CYCLES = (
    "smsp__cycles_elapsed.avg.per_second",
    "sm__cycles_elapsed.avg.per_second",
    "gpc__cycles_elapsed.avg.per_second",
)
BYTES_RATE = ("dram__bytes.sum.per_second",)
BYTES = ("dram__bytes.sum",)
READ = ("dram__bytes_read.sum", "dram__bytes_op_read.sum")
WRITTEN = ("dram__bytes_write.sum", "dram__bytes_op_write.sum")
"""Names of the metric for a figure, the preferred one first: they depend on the chip and on the version of ncu."""
SASS = "smsp__sass_thread_inst_executed_op"
TENSOR = "sm__ops_path_tensor_src_"
WIDTH = {"f": 1, "h": 2, "d": 1}
"""First letter of an instruction (single, half, double precision) → numbers that it works on in each thread."""
ADDING, FUSED = ("add", "mul"), "fma"


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
    operations_per_second: float | None
    """Floating-point additions and multiplications per second, and those of integers in tensor cores."""
    intensity: float | None
    """Operations per byte of DRAM traffic."""
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
    found = (_kernel(name, group, whole) for name, group in groups.items())
    return tuple(sorted(found, key=lambda kernel: (-kernel.seconds, kernel.name)))


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
        found = KernelHint(name, rule.name, rule.text, rule.speedup, rule.speedup / 100 * seconds / whole)
        other = best.get((name, rule.name))
        if other is None or found.saves > other.saves:
            best[name, rule.name] = found
    return tuple(sorted(best.values(), key=lambda found: -found.saves))


def bound_by(sm: float | None, memory: float | None) -> KernelBound | None:
    """Return what bounds a kernel by its percentages of the peaks (``BOUND_FROM``); None if one of them is unknown."""
    if sm is None or memory is None:
        return None
    if max(sm, memory) < BOUND_FROM:
        return "latency"
    return "compute" if sm >= memory else "memory"


def operations_per_second(launch: KernelLaunch) -> float | str:
    """Return additions and multiplications per second, or why they are not known.

    Half, single and double precision are counted by instruction, a fused one as two operations; tensor cores count
    their operations themselves. The sum is unknown if the report lacks half or single precision. Double precision
    may be missing: detectors do not use it.
    """
    vector = {kind: _vector(launch, kind) for kind in WIDTH}
    if missing := [kind for kind in "fh" if vector[kind] is None]:
        words = {"f": "single", "h": "half"}
        return f"the report does not count instructions of {' and '.join(words[kind] for kind in missing)} precision"
    tensor = _tensor(launch)
    if isinstance(tensor, str):
        return tensor
    return sum(rate or 0.0 for rate in vector.values()) + tensor


def dram_bytes_per_second(launch: KernelLaunch) -> float | str:
    """Return the traffic to and from DRAM in bytes per second, or why it is not known."""
    if (rate := launch.number(*BYTES_RATE)) is not None:
        return rate
    seconds, whole = launch.number(*DURATION), launch.number(*BYTES)
    read, written = launch.number(*READ), launch.number(*WRITTEN)
    if whole is None and read is not None and written is not None:
        whole = read + written
    if whole is None or not seconds:
        return "the report does not count the bytes of DRAM"
    return whole / seconds


def _vector(launch: KernelLaunch, kind: str) -> float | None:
    """Return the operations per second of one precision outside of tensor cores; None if the report lacks them."""
    width, rates = WIDTH[kind], []
    for operation, per_instruction in [(name, width) for name in ADDING] + [(FUSED, 2 * width)]:
        name = f"{SASS}_{kind}{operation}_pred_on"
        derived = launch.number(f"derived__{name}_x{per_instruction}") if per_instruction > 1 else None
        rate = _per_second(launch, name)
        if derived is not None and (cycles := launch.number(*CYCLES)) is not None:
            rates.append(derived * cycles)
        elif rate is not None:
            rates.append(rate * per_instruction)
        else:
            return None
    paired = [(f"{operation}2", factor) for operation, factor in (("add", 2), ("mul", 2), ("fma", 4))]  # two at once
    return sum(rates) + sum(factor * (_per_second(launch, f"{SASS}_{kind}{x}_pred_on") or 0) for x, factor in paired)


def _tensor(launch: KernelLaunch) -> float | str:
    """Return the operations per second of tensor cores, or why they are not known."""
    stems = {name.partition(".")[0] for name in launch.metrics if name.startswith(TENSOR)}
    rates = {stem: rate for stem in stems if (rate := _per_second(launch, stem)) is not None}
    if rates:  # `src_fp16` counts all that `src_fp16_dst_fp32` does
        return sum(rate for stem, rate in rates.items() if not any(stem.startswith(f"{other}_") for other in rates))
    busy = [value for name, value in launch.metrics.items() if "pipe_tensor" in name]
    if not busy:
        return "the report does not say what tensor cores did"
    return "the report does not count operations of tensor cores, which were busy" if any(busy) else 0.0


def _per_second(launch: KernelLaunch, counter: str) -> float | None:
    """Return the rate of a counter: as reported, or per cycle times cycles per second, or its sum over the duration."""
    if (rate := launch.number(f"{counter}.sum.per_second")) is not None:
        return rate
    each, cycles = launch.number(f"{counter}.sum.per_cycle_elapsed"), launch.number(*CYCLES)
    if each is not None and cycles is not None:
        return each * cycles
    whole, seconds = launch.number(f"{counter}.sum"), launch.number(*DURATION)
    return None if whole is None or not seconds else whole / seconds


def _kernel(name: str, group: Sequence[tuple[KernelLaunch, float]], whole: float) -> Kernel:
    seconds = sum(time for _, time in group)
    unknown: dict[str, str] = {}

    def mean(figure: str, names: Sequence[str]) -> float | None:
        found = [(launch.number(*names), time) for launch, time in group]
        known = [(value, time) for value, time in found if value is not None]
        if len(known) < len(found) or not seconds:
            unknown[figure] = f"{names[0]} is not in the report of {len(found) - len(known)} of {len(found)} launches"
            return None
        return sum(value * time for value, time in known) / seconds

    def amount(figure: str, rate_of: Callable[[KernelLaunch], float | str]) -> float | None:
        rates = [(rate_of(launch), time) for launch, time in group]
        if why := next((rate for rate, _ in rates if isinstance(rate, str)), None):
            unknown[figure] = why
            return None
        return sum(rate * time for rate, time in rates if not isinstance(rate, str))

    sm, memory, dram = mean("sm_percent", SM), mean("memory_percent", MEMORY), mean("dram_percent", DRAM)
    bound = bound_by(sm, dram if memory is None else memory)
    if bound is None:
        unknown["bound"] = unknown.get("sm_percent") or unknown["memory_percent"]
    operations = amount("operations_per_second", operations_per_second)
    traffic = amount("intensity", dram_bytes_per_second)
    if operations is None:
        unknown["intensity"] = unknown["operations_per_second"]
    elif traffic == 0:
        unknown["intensity"] = "no byte went to or from DRAM"
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
        operations_per_second=operations / seconds if operations is not None and seconds else None,
        intensity=operations / traffic if operations is not None and traffic else None,
        bound=bound,
        unknown=unknown,
    )
