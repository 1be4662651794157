"""Kernels of one inference as Nsight Compute saw them, by name: time, speed of light, roofline, what bounds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paretune.profiling.nsight.csv_parser import KernelLaunch, NsightRule

KernelBound = Literal["compute", "memory", "latency"]
BOUND_FROM = 60.0
"""Percent of the peak below which, for compute and memory both, a kernel counts as bound by latency. It is the
threshold of NVIDIA's own speed-of-light rule (``SOLBottleneck``, section SpeedOfLight of Nsight Compute)."""
ELAPSED, ACTIVE = "avg.pct_of_peak_sustained_elapsed", "avg.pct_of_peak_sustained_active"
DURATION = ("gpu__time_duration.sum", "gpu__time_duration.avg", "gpu__time_active.sum", "Duration")
SM = (f"sm__throughput.{ELAPSED}", f"sm__throughput.{ACTIVE}", "Compute (SM) Throughput", "SM Throughput")
MEMORY = (f"gpu__compute_memory_throughput.{ELAPSED}", "GPU Speed Of Light Throughput: Memory Throughput")
DRAM = (f"gpu__dram_throughput.{ELAPSED}", f"dram__throughput.{ELAPSED}", "DRAM Throughput")
OCCUPANCY = (f"sm__warps_active.{ACTIVE}", "Achieved Occupancy")
WAVES = ("launch__waves_per_multiprocessor", "Waves Per SM")
PASSES = ("profiler__replayer_passes",)
CYCLES = (
    "smsp__cycles_elapsed.avg.per_second",
    "sm__cycles_elapsed.avg.per_second",
    "gpc__cycles_elapsed.avg.per_second",
)
BYTES_RATE = ("dram__bytes.sum.per_second", "Memory Workload Analysis: Memory Throughput")
BYTES = ("dram__bytes.sum",)
READ = ("dram__bytes_read.sum", "dram__bytes_op_read.sum")
WRITTEN = ("dram__bytes_write.sum", "dram__bytes_op_write.sum")
"""Names of a figure, the preferred one first: they change with the chip and with ncu's version."""
SASS = "smsp__sass_thread_inst_executed_op"
TENSOR = "sm__ops_path_tensor_src_"
WIDTH = {"f": 1, "h": 2, "d": 1}
"""Numbers that an instruction of a thread works on, by the first letter of its name."""
ADDING, FUSED = ("add", "mul"), "fma"


@dataclass(frozen=True)
class Kernel:
    """All launches of the kernels of one name in one inference. Percentages and waves are means over their time."""

    name: str
    launches: int
    seconds: float
    """Of all launches, under the profiler: for shares, never a latency."""
    share: float
    """Of the time of all kernels, 0 to 1."""
    sm_percent: float | None
    """Of the peak of the busiest compute unit."""
    memory_percent: float | None
    """Of the peak of the busiest part of the memory, caches included."""
    dram_percent: float | None
    occupancy_percent: float | None
    """Warps that were active, of those that the chip can hold."""
    waves: float | None
    """Fillings of the whole GPU with blocks."""
    operations_per_second: float | None
    """Additions and multiplications, of floating point everywhere, of integers in tensor cores only."""
    intensity: float | None
    """Operations per byte of DRAM traffic."""
    bound: KernelBound | None
    unknown: dict[str, str]
    """Figure → why it is None."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class KernelHint:
    """What a rule of Nsight Compute proposes for a kernel."""

    kernel: str
    rule: str
    text: str
    speedup_percent: float
    """Its own estimate for the kernel."""
    saves: float
    """That estimate as a share of the time of all kernels, 0 to 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def by_name(launches: Iterable[KernelLaunch]) -> tuple[Kernel, ...]:
    """Return kernels by name, the one that takes longest first; launches without a duration are left out."""
    timed = [(launch, seconds) for launch in launches if (seconds := launch.number(*DURATION)) is not None]
    groups: dict[str, list[tuple[KernelLaunch, float]]] = {}
    for launch, seconds in timed:
        groups.setdefault(launch.name, []).append((launch, seconds))
    whole = sum(seconds for _, seconds in timed)
    found = (_kernel(name, group, whole) for name, group in groups.items())
    return tuple(sorted(found, key=lambda kernel: (-kernel.seconds, kernel.name)))


def advice(launches: Iterable[KernelLaunch], rules: Iterable[NsightRule]) -> tuple[KernelHint, ...]:
    """Return the proposals of rules that estimate a speed-up of whole kernels, what saves most first.

    Each rule is told once for a kernel's name, with the launch where it would save most.
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
    """Return what bounds a kernel, from percentages of the peaks (``BOUND_FROM``); None if one is not known."""
    if sm is None or memory is None:
        return None
    if max(sm, memory) < BOUND_FROM:
        return "latency"
    return "compute" if sm >= memory else "memory"


def operations_per_second(launch: KernelLaunch) -> float | str:
    """Return additions and multiplications per second, or why they are not known.

    Half, single and double precision are counted by instruction, a fused one as two operations; tensor cores
    count their operations themselves. A precision that the report says nothing of makes the sum unknown,
    double precision alone counts as none then: detectors do not use it.
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
    """Return the traffic to and from DRAM, or why it is not known."""
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
    """Return operations per second of one precision outside of tensor cores."""
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
    """Return operations per second in tensor cores, or why they are not known."""
    stems = {name.partition(".")[0] for name in launch.metrics if name.startswith(TENSOR)}
    rates = {stem: rate for stem in stems if (rate := _per_second(launch, stem)) is not None}
    if rates:  # `src_fp16` counts all that `src_fp16_dst_fp32` does
        return sum(rate for stem, rate in rates.items() if not any(stem.startswith(f"{other}_") for other in rates))
    busy = [value for name, (value, _) in launch.metrics.items() if "pipe_tensor" in name and isinstance(value, float)]
    if not busy:
        return "the report does not say what tensor cores did"
    return "the report does not count operations of tensor cores, which were busy" if any(busy) else 0.0


def _per_second(launch: KernelLaunch, counter: str) -> float | None:
    """Return a counter's rate: told itself, or per cycle times cycles per second, or its sum over the duration."""
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
