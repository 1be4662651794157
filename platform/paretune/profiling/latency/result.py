"""The latency of one artefact, on a device that nothing else of ours uses meanwhile.

Rules: fresh processes, a warm-up that ends on a plateau, real images in turn, stages timed separately, every raw sample
kept, percentiles only from enough samples, and a record of what else ran on the cores.

Sources of the rules: MLPerf loadgen (Reddi et al., arXiv:1911.02549); Barrett et al., Virtual Machine
Warmup Blows Hot and Cold, OOPSLA 2017; Kalibera and Jones, Rigorous Benchmarking in Reasonable Time,
ISMM 2013.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.devices import device_kind
from paretune.core.target import Target
from paretune.profiling.gpu.contention import GpuContention
from paretune.profiling.latency import memory_contention as neighbours
from paretune.profiling.latency.drift import LatencyDrift, drift
from paretune.profiling.latency.median_interval import MedianInterval, median_interval
from paretune.profiling.latency.samples import (
    COLUMNS,
    NO_STEADY_STATE,
    P50_SAMPLES,
    P90_SAMPLES,
    P95_SAMPLES,
    P99_SAMPLES,
    Mode,
    Rows,
    Stage,
    column,
    is_clean,
    is_undisturbed,
    milliseconds,
    too_few_clean,
    trusted,
)
from paretune.profiling.latency.shared_images import few_images
from paretune.system.cpu_cores import contention

STRETCH, UNDISTURBED = 1.05, 0.9
"""Ratio of wall time to CPU time above which, and share of undisturbed inferences below which, others disturbed."""
SPREAD = 0.10
"""Largest relative difference of the repetitions' medians; above it they are unstable, however narrow the interval."""
STAGES: tuple[Stage, ...] = ("preprocess", "network", "postprocess")


@dataclass(frozen=True)
class Latency:
    """The measured latency of one artefact on one target."""

    rows: Rows
    """(N, 12) raw samples in their order, with the columns ``samples.COLUMNS``."""
    repetition: NDArray[np.int64]
    """(N,) number of the process of each sample."""
    target: Target
    memory_mib_peak: float
    """Peak resident memory of a process that only predicts, without the images.

    It is the lower median of the processes, as the first one may have compiled the network too."""
    elsewhere: Mapping[str, float]
    """Shares by which others used the cores (see ``cpu_cores.reading``)."""
    steady: bool
    """True if every warm-up reached its plateau."""
    cold: Mapping[str, float]
    """``load_ms`` and ``first_inference_ms``, medians over the processes."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The runtime's own facts, and the environment."""
    retaken: int = 0
    """Number of times that disturbed samples were dropped for calmer ones."""
    gpu: GpuContention | None = None
    """The GPU before and after each repetition; None on a CPU, or if it was not watched."""
    allocator_mib_peak: float | None = None
    """Peak of torch's allocator on the GPU; None if it was not used."""
    slowed: tuple[float | None, ...] = ()
    """Slowdown of memory copies during each window of samples (see ``memory_contention``); None if unknown."""

    @cached_property
    def clean(self) -> NDArray[np.bool_]:
        """Mask of the samples without an involuntary context switch, (N,)."""
        return is_undisturbed(self.rows)

    @cached_property
    def contended(self) -> tuple[str, ...]:
        """How others disturbed the measurement; empty if nobody did."""
        seen = () if self.gpu is None else self.gpu.contended
        return (*disturbance(self.rows, self.elsewhere, self.target), *seen)

    @cached_property
    def mode(self) -> Mode:
        """Samples by which artefacts are ranked: all if nobody disturbed them, else by ``samples.trusted``."""
        if not self.contended:
            return "wall"
        return trusted(self._repetitions(), self.target.threads, self.target.device)

    @cached_property
    def drift(self) -> LatencyDrift | str:
        """Drift of the trusted samples during the measurement, or why it is not known."""
        kept = is_clean(self.rows) if self.mode == "clean" else np.ones(len(self.rows), bool)
        times = milliseconds(self.rows, "latency", self.mode)
        return drift(column(self.rows, "start_ns")[kept], times, self.repetition[kept])

    def _repetitions(self) -> list[Rows]:
        return [self.rows[self.repetition == number] for number in np.unique(self.repetition)]

    def spread(self, mode: Mode = "wall") -> tuple[float, float]:
        """Return the smallest and largest median of the repetitions end to end in ms.

        For k processes they enclose the true median with probability 1 - 2^(1-k): 75 % for 3, 94 % for 5.
        """
        return _spread(self._repetitions(), mode)

    @cached_property
    def interval(self) -> MedianInterval | str:
        """The 95 % interval of ``latency_ms_p50`` in ms, or why it is not known (see ``median_interval``)."""
        return _interval(self._repetitions())

    @cached_property
    def _trusted_interval(self) -> MedianInterval | str:
        """The 95 % interval of the median in the trusted mode in ms, or why it is not known."""
        return self.interval if self.mode == "wall" else _interval(self._repetitions(), self.mode)

    @property
    def trusted_figures(self) -> dict[str, float | str]:
        """Return the medians in ms in the trusted mode, which rank artefacts, or why they are not known."""
        low, high = _ends(self._trusted_interval)
        whole, network = (milliseconds(self.rows, stage, self.mode) for stage in ("latency", "network"))
        return {
            "latency_ms": _percentile(whole, 50, P50_SAMPLES),
            "latency_ms_low": low,
            "latency_ms_high": high,
            "network_ms": _percentile(network, 50, P50_SAMPLES),
        }

    @cached_property
    def _unsettled(self) -> list[str]:
        """Why the trusted median is not known well enough; empty if it is."""
        return _doubts(self.spread(self.mode), self._trusted_interval, self.target)

    @property
    def device_memory(self) -> dict[str, float | str]:
        """Return the peaks of memory on the GPU in MiB, or why they are not known."""
        unwatched = f"{device_kind(self.target.device).words} was not watched"
        own = unwatched if self.gpu is None else self.gpu.own_mib
        allocator = self.allocator_mib_peak
        return {
            "device_mib_peak": own,
            "allocator_mib_peak": "torch's allocator was not used" if allocator is None else allocator,
        }

    def _figures(self) -> dict[str, float | str]:
        """Return all figures; a text is the reason why a figure is not known."""
        total, cpu = milliseconds(self.rows, "latency", "wall"), milliseconds(self.rows, "latency", "cpu")
        single = "CPU time is latency only where one thread of a CPU does all the work"
        low, high = _ends(self.interval)
        return {
            **self.trusted_figures,
            "latency_ms_p50": _percentile(total, 50, P50_SAMPLES),
            "latency_ms_p90": _percentile(total, 90, P90_SAMPLES),
            "latency_ms_p95": _percentile(total, 95, P95_SAMPLES),
            "latency_ms_p99": _percentile(total, 99, P99_SAMPLES),
            "latency_ms_p50_clean": too_few_clean(self.rows)
            or float(np.median(milliseconds(self.rows, "latency", "clean"))),
            "latency_ms_p50_cpu": single
            if _stretch(self.rows, self.target) is None
            else _percentile(cpu, 50, P50_SAMPLES),
            "latency_ms_p50_low": low,
            "latency_ms_p50_high": high,
            **{f"{s}_ms_p50": _percentile(milliseconds(self.rows, s, "wall"), 50, P50_SAMPLES) for s in STAGES},
            **self.cold,
            "memory_mib_peak": self.memory_mib_peak,
            **({} if self.target.device == "cpu" else self.device_memory),
            "clean_fraction": float(self.clean.mean()),
            "latency_samples": float(len(total)),
        }

    def metrics(self) -> dict[str, float]:
        """Return the known figures by the names under which they are logged."""
        return {name: value for name, value in self._figures().items() if not isinstance(value, str)}

    @property
    def reasons(self) -> dict[str, str]:
        """Return the reason for each figure that ``metrics`` lacks."""
        return {name: value for name, value in self._figures().items() if isinstance(value, str)}

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for readers of the figures; each begins with its flag."""
        return self.notes_with(self._unsettled)

    def notes_with(self, doubts: Sequence[str]) -> tuple[str, ...]:
        """Return the notes with these doubts about the latency in place of its own."""
        notes = []
        if self.contended:
            notes.append(f"contended: {'; '.join(self.contended)}")
        if "foreign" not in self.elsewhere:
            notes.append("contention unknown: the kernel does not tell what else ran on the cores")
        if self.gpu is not None:
            notes += self.gpu.notes
        elif self.target.device != "cpu":
            notes.append(f"exclusivity unknown: {device_kind(self.target.device).words} was not watched")
        notes += neighbours.note(self.slowed)
        if not self.steady:
            notes.append(NO_STEADY_STATE)
        if self.retaken:
            notes.append(f"retaken: {self.retaken} times samples that others disturbed were dropped for calmer ones")
        if doubts:
            notes.append(f"unstable: {'; '.join(doubts)} ({self.mode} time)")
        if isinstance(self.drift, LatencyDrift) and self.drift.note:
            notes.append(self.drift.note)
        return (*notes, *few_images(self.facts), *_of_facts(self.facts))

    def to_dict(self) -> dict[str, Any]:
        """Return all but the raw samples as plain data."""
        low, high = self.spread(self.mode)
        return {
            "metrics": self.metrics(),
            "reasons": self.reasons,
            "notes": list(self.notes),
            "ranking": {"mode": self.mode, "low_ms": low, "high_ms": high},
            "drift": self.drift if isinstance(self.drift, str) else self.drift.tree(),
            "elsewhere": dict(self.elsewhere),
            "gpu": None if self.gpu is None else self.gpu.tree(),
            "memory_slowed": list(self.slowed),
            "facts": dict(self.facts),
        }

    def save_samples(self, file: Path) -> None:
        """Write the raw samples (npz), an array for each column and for the samples' processes and clean flags."""
        columns: dict[str, Any] = {name: column(self.rows, name) for name in COLUMNS}
        np.savez_compressed(file, **columns, repetition=self.repetition, clean=self.clean)


def _ends(interval: MedianInterval | str) -> tuple[float | str, float | str]:
    """Return both ends of an interval, or twice the reason why it is not known."""
    return (interval, interval) if isinstance(interval, str) else (interval.low, interval.high)


def _of_facts(facts: Mapping[str, Any]) -> list[str]:
    """Return remarks on facts that a reader would not expect."""
    remarks = []
    if "file" in facts:
        remarks.append(
            f"precision: the file is made for {facts['file']}, and the runtime computes it in {facts['precision']}"
        )
    if facts.get("nice", 0) > 0:
        remarks.append(f"nice: measured at priority {facts['nice']}, everything else on the machine went first")
    return remarks


def _stretch(rows: Rows, target: Target) -> float | None:
    """Return the ratio of wall time to CPU time; None unless one thread of a CPU does all the work."""
    if target.threads != 1 or target.device != "cpu":
        return None
    return float(column(rows, "latency_ns").sum() / max(1, column(rows, "latency_cpu_ns").sum()))


def disturbance(rows: Rows, elsewhere: Mapping[str, float], target: Target) -> list[str]:
    """Return how others disturbed these samples; empty if they did not."""
    reasons = contention(elsewhere)
    stretch = _stretch(rows, target)
    if stretch is not None and stretch > STRETCH and is_undisturbed(rows).mean() < UNDISTURBED:
        reasons.append(f"wall time was {stretch:.2f} times CPU time")
    return reasons


def _spread(repetitions: Sequence[Rows], mode: Mode = "wall") -> tuple[float, float]:
    medians = [float(np.median(milliseconds(rows, "latency", mode))) for rows in repetitions]
    return min(medians), max(medians)


def _interval(repetitions: Sequence[Rows], mode: Mode = "wall") -> MedianInterval | str:
    return median_interval([milliseconds(rows, "latency", mode) for rows in repetitions])


def unsettled(repetitions: Sequence[Rows], target: Target) -> bool:
    """Return whether the median of these repetitions is not known well enough, or they disagree (`SPREAD`).

    It is False for one repetition, which does not show how much processes differ.
    """
    return bool(_doubts(_spread(repetitions), _interval(repetitions), target))


def _doubts(spread: tuple[float, float], interval: MedianInterval | str, target: Target) -> list[str]:
    """Return why a median is not known well enough; empty if it is."""
    (low, high), narrow, doubts = spread, device_kind(target.device).narrow, []
    if not isinstance(interval, str) and interval.half > narrow:
        limits = f"{interval.low:.3g} to {interval.high:.3g} ms"
        doubts.append(f"the median is known to ±{interval.half:.1%} ({limits}), ±{narrow:.0%} is wanted")
    if high - low > SPREAD * low:
        doubts.append(f"medians of the processes lie {high / low - 1:.0%} apart")
    return doubts


def _percentile(times: NDArray[np.float64], percent: int, needed: int) -> float | str:
    if len(times) < needed:
        return f"{len(times)} samples, {needed} are needed"
    return float(np.percentile(times, percent))
