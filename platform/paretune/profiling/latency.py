"""The latency of one artefact, on a device that nothing else of ours uses meanwhile.

Rules followed (MLPerf loadgen, nvbench, Barrett et al. OOPSLA 2017): fresh process per repetition,
warm-up until a plateau, real images in turn, stages timed apart, raw samples kept and none dropped,
percentiles only from enough samples, what else ran on the cores is told.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.device_lock import alone_on
from paretune.profiling.supervisor import COLUMNS, LOADER, Batch, Protocol, Worker, saved_images
from paretune.structures import Image
from paretune.target import Target

P50_SAMPLES, P90_SAMPLES, CLEAN_SAMPLES = 11, 64, 30
"""Fewest samples for a percentile at 99 % confidence (MLPerf's early-stopping bound)."""
FOREIGN, STEAL = 0.05, 0.02
"""Cores' worth of other work from which a measurement is called contended."""


@dataclass(frozen=True)
class Latency:
    """What was measured of one artefact on one target."""

    rows: NDArray[np.int64]
    """(N, 6) raw samples in their order: nanoseconds of each stage, CPU time, involuntary switches."""
    repetition: NDArray[np.int64]
    """(N,) which process each sample comes from."""
    threads: int
    memory_mib_peak: float
    foreign: float
    """Cores' worth of other processes' work on our cores, mean."""
    steal: float
    steady: bool
    """Whether every warm-up reached its plateau."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What really ran, read back, and the environment."""

    def column(self, name: str) -> NDArray[np.int64]:
        """Return one column of the samples."""
        return self.rows[:, COLUMNS.index(name)]

    @property
    def clean(self) -> NDArray[np.bool_]:
        """Return which samples ran without an involuntary context switch."""
        return np.asarray(self.column("switches") == 0)

    @property
    def contended(self) -> bool:
        """Tell whether something else ran on our cores."""
        return self.foreign > FOREIGN or self.steal > STEAL

    @property
    def spread(self) -> tuple[float, float]:
        """Return the smallest and largest median (ms, end to end) of the repetitions."""
        total = self.column("latency_ns")
        medians = [np.median(total[self.repetition == r]) / 1e6 for r in np.unique(self.repetition)]
        return float(min(medians)), float(max(medians))

    def metrics(self) -> dict[str, float | None]:
        """Return the figures by the names they are logged under; None where ``reasons`` says why."""
        total = self.column("latency_ns")
        low, high = self.spread
        enough_clean = int(self.clean.sum()) >= CLEAN_SAMPLES
        return {
            "latency_ms_p50": _percentile(total, 50, P50_SAMPLES),
            "latency_ms_p90": _percentile(total, 90, P90_SAMPLES),
            "latency_ms_p50_clean": _percentile(total[self.clean], 50, CLEAN_SAMPLES) if enough_clean else None,
            "latency_ms_p50_cpu": _percentile(self.column("cpu_ns"), 50, P50_SAMPLES) if self.threads == 1 else None,
            "latency_ms_p50_low": low,
            "latency_ms_p50_high": high,
            "network_ms_p50": _percentile(self.column("network_ns"), 50, P50_SAMPLES),
            "preprocess_ms_p50": _percentile(self.column("preprocess_ns"), 50, P50_SAMPLES),
            "postprocess_ms_p50": _percentile(self.column("postprocess_ns"), 50, P50_SAMPLES),
            "load_ms": self.facts.get("load_ms"),
            "first_inference_ms": self.facts.get("first_inference_ms"),
            "memory_mib_peak": self.memory_mib_peak,
            "clean_fraction": float(self.clean.mean()),
            "latency_samples": float(len(self.rows)),
        }

    @property
    def reasons(self) -> dict[str, str]:
        """Say for each figure that is None why it is."""
        count = len(self.rows)
        why = {
            "latency_ms_p50": f"{count} samples, {P50_SAMPLES} are needed",
            "network_ms_p50": f"{count} samples, {P50_SAMPLES} are needed",
            "latency_ms_p90": f"{count} samples, {P90_SAMPLES} are needed",
            "latency_ms_p50_clean": f"{int(self.clean.sum())} undisturbed samples, {CLEAN_SAMPLES} are needed",
            "latency_ms_p50_cpu": f"CPU time is latency for one thread only, not {self.threads}",
        }
        return {name: why.get(name, "not measured") for name, value in self.metrics().items() if value is None}

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what a reader of the figures must know."""
        notes = []
        if self.contended:
            notes.append(
                f"contended: {self.foreign:.0%} of a core was used by others, {self.steal:.0%} taken by the hypervisor"
            )
        if not self.steady:
            notes.append("no_steady_state: the warm-up reached no plateau")
        if self.facts.get("nice", 0) > 0:
            notes.append(f"measured at nice {self.facts['nice']}: everything else on the machine went first")
        return tuple(notes)

    def save_samples(self, file: Path) -> None:
        """Keep the raw samples, each with its clean flag, as a compressed npz."""
        columns = {name: self.column(name) for name in COLUMNS}
        np.savez_compressed(file, **columns, repetition=self.repetition, clean=self.clean)  # type: ignore[arg-type]


def _percentile(values: NDArray[np.int64], percent: float, at_least: int) -> float | None:
    return float(np.percentile(values, percent)) / 1e6 if len(values) >= at_least else None


def measure(
    artefact: Path,
    images: Sequence[Image],
    target: Target,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    *,
    loader: str = LOADER,
) -> Latency:
    """Measure one artefact, alone on the target's device.

    Args:
        artefact: its folder.
        images: RGB uint8; inferences take them in turn.
        target: device and threads.
        protocol: how long.
        loader: ``module:function`` (folder, target) → predictor.

    Raises:
        RuntimeError: the measuring process died or hung; no figure is given then.
    """
    batches: list[Batch] = []
    facts: dict[str, Any] = {}
    steady = True
    with saved_images(images) as file, alone_on(target.device):
        for _ in range(protocol.repetitions):
            with Worker(artefact, file, target, protocol.limit, loader) as worker:
                steady = worker.warm_up(protocol) and steady
                batches.append(worker.sample(protocol.seconds, protocol.samples, protocol.cap))
                facts = facts or worker.facts
    return Latency(
        rows=np.concatenate([batch.rows for batch in batches]),
        repetition=np.repeat(np.arange(len(batches)), [len(batch.rows) for batch in batches]),
        threads=target.threads,
        memory_mib_peak=max(batch.peak_bytes for batch in batches) / 2**20,
        foreign=float(np.mean([batch.foreign for batch in batches])),
        steal=float(np.mean([batch.steal for batch in batches])),
        steady=steady,
        facts={**environment(), **facts},
    )


def environment() -> dict[str, Any]:
    """Return what two measurements must share to be comparable."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {
        "cpu": cpu,
        "machine_cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "governor": governor.read_text().strip() if governor.exists() else "unknown",
        "load_average": round(os.getloadavg()[0], 2),
    }
