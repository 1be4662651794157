"""Raw samples, the protocol of a measurement, and the choice of samples that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""(N, 12) samples, one inference in each row, with the columns ``COLUMNS``."""
COLUMNS = (
    "start_ns",  # of the monotonic clock
    "image",  # its index
    "preprocess_ns",
    "network_ns",
    "postprocess_ns",
    "latency_ns",  # all three, end to end
    "preprocess_cpu_ns",  # CPU time of the whole process in that stage
    "network_cpu_ns",
    "postprocess_cpu_ns",
    "latency_cpu_ns",
    "switches",  # times that the kernel took the core away from one of the process's threads
    "switches_before",  # the same during the inference before
)
Stage = Literal["latency", "preprocess", "network", "postprocess"]
Mode = Literal["clean", "cpu", "wall"]
"""``clean``: wall time of inferences during which no core was taken away. ``cpu``: CPU time of a single thread.
``wall``: wall time of all."""
TIMED: dict[Mode, str] = {"clean": "undisturbed inferences", "cpu": "CPU time", "wall": "wall time"}
"""Mode → its samples in words."""

COLD = ("load_ms", "first_inference_ms")
"""Facts that differ from process to process."""
SHORT_MS = 20.0
"""Longest inference that is often undisturbed even on a busy machine."""
P50_SAMPLES, P90_SAMPLES, P95_SAMPLES, P99_SAMPLES = 11, 64, 130, 662
"""Fewest samples for a percentile at 99 % confidence (MLPerf loadgen's early-stopping bound)."""
CLEAN_SAMPLES = 30
"""Fewest undisturbed samples for a median."""
CLEAN_SHARE = 0.1
"""Least share of undisturbed samples for a median; below it only the shortest inferences are undisturbed."""
NO_STEADY_STATE = "no_steady_state: a warm-up reached no plateau"
"""Note of a measurement whose warm-up ended at its time limit."""


@dataclass(frozen=True)
class MeasurementProtocol:
    """Lengths and limits of a measurement, with times in seconds."""

    repetitions: int = 3
    """Fresh processes, whose spread is part of the result (3 in a search, 5 for finalists)."""
    spare: int = 3
    """Most further processes, in place of disturbed repetitions, or until the median is known well."""
    patience: float = 30.0
    """Total time for which processes sample on if other guests of the host use its memory; the calmer half is kept.

    0 switches this off."""
    seconds: float = 1.0
    """Least sampling time of each process."""
    samples: int = 30
    """Fewest inferences of each process: 64 in all give a 90th percentile."""
    warmup_seconds: float = 0.5
    """Least time of the warm-up, in windows of half of it and of 5 inferences.

    It ends when the medians of two successive windows agree to ``plateau``."""
    warmup_cap: float = 10.0
    """Time limit of the warm-up; the result notes a missing plateau."""
    plateau: float = 0.03
    """Largest relative difference of two windows on the plateau."""
    block_seconds: float = 0.05
    """Least length of a block when several artefacts are compared."""
    block_samples: int = 5
    """Fewest inferences of a block."""
    cap: float = 30.0
    """Time after which sampling ends even without enough samples."""
    limit: float = 180.0
    """Time after which a process that does not answer is killed, with all that it started."""


@dataclass(frozen=True)
class SampleBatch:
    """Samples that a process took without a pause."""

    rows: Rows
    elsewhere: Mapping[str, float]
    """Length in ``seconds``, and clocks of others' use of the cores (see ``cpu_cores.reading``)."""
    peak_bytes: int
    """Peak resident memory so far, without the images."""
    allocator_bytes: int | None = None
    """Peak of torch's allocator on a GPU so far; None if it was not used."""


def column(rows: Rows, name: str) -> Rows:
    """Return one column of the samples, (N,)."""
    return np.asarray(rows[:, COLUMNS.index(name)])


def is_undisturbed(rows: Rows) -> NDArray[np.bool_]:
    """Return the mask of inferences that never lost a core, (N,)."""
    return np.asarray(column(rows, "switches") == 0)


def is_clean(rows: Rows) -> NDArray[np.bool_]:
    """Return the mask of clean inferences, (N,): undisturbed, after an undisturbed one if there are enough of these.

    The first inference after a foreign process had the core finds cold caches: it took 0.2 to 0.3 of 1.4 ms longer.
    """
    alone = is_undisturbed(rows)
    warm = alone & (column(rows, "switches_before") == 0)
    return warm if warm.sum() >= CLEAN_SAMPLES else alone


def milliseconds(rows: Rows, stage: Stage, mode: Mode) -> NDArray[np.float64]:
    """Return the times of a stage in ms, of the samples of a mode."""
    if mode == "clean":
        rows = rows[is_clean(rows)]
    return column(rows, f"{stage}_cpu_ns" if mode == "cpu" else f"{stage}_ns") / 1e6


def is_short(rows: Rows, threads: int) -> bool:
    """Return whether inferences are short enough for undisturbed ones to occur."""
    mode: Mode = "cpu" if threads == 1 else "wall"  # on a busy machine wall time depends on the others
    return bool(np.median(milliseconds(rows, "latency", mode)) < SHORT_MS)


def too_few_clean(rows: Rows, at_least: int = CLEAN_SAMPLES) -> str | None:
    """Return why too few inferences were undisturbed for a median; None if there are enough."""
    alone = is_undisturbed(rows)
    if alone.sum() < at_least:
        return f"{alone.sum()} undisturbed samples, {at_least} are needed"
    if alone.mean() < CLEAN_SHARE:
        return f"{alone.mean():.0%} of the samples are undisturbed, the shortest; {CLEAN_SHARE:.0%} are needed"
    return None


def trusted(groups: Sequence[Rows], threads: int, device: str, at_least: int = P50_SAMPLES) -> Mode:
    """Return the mode to trust when others used the cores too, the same for all groups.

    Beside a busy process on the same core, undisturbed samples of short inferences were right to 5 %, and CPU time of
    long ones to 4 %; wall time was off by a factor of two to nine. CPU time has no meaning if several threads wait for
    each other, or if a GPU does the work.
    """
    if device != "cpu":
        return "wall"
    if all(is_short(rows, threads) and too_few_clean(rows, at_least) is None for rows in groups):
        return "clean"
    return "cpu" if threads == 1 else "wall"


def steady(before: Rows, now: Rows, protocol: MeasurementProtocol, threads: int, device: str) -> bool:
    """Return whether two windows of a warm-up have the same median.

    Medians are of the CPU time of a single thread, which others disturb least, unless it mostly waits. Undisturbed
    samples alone are no choice, as those of two windows may be neighbours.
    """
    rows = np.concatenate([before, now])
    undisturbed = rows[is_undisturbed(rows)]
    stretch = column(undisturbed, "latency_ns") / np.maximum(1, column(undisturbed, "latency_cpu_ns"))
    waits = 2 * len(undisturbed) >= len(rows) and bool(np.median(stretch) > 2)
    mode: Mode = "cpu" if device == "cpu" and threads == 1 and not waits else "wall"
    first, second = (float(np.median(milliseconds(window, "latency", mode))) for window in (before, now))
    return abs(second - first) <= protocol.plateau * first
