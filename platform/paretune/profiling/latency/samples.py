"""What is timed, for how long, and which statistic of it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
"""(N, 12): one inference a row, the columns of COLUMNS."""
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
"""What a mode's medians are of, for people."""

COLD = ("load_ms", "first_inference_ms")
"""Facts of a process that differ from one to the next."""
SHORT_MS = 20.0
"""Inferences below this are often undisturbed even on a busy machine; of longer ones hardly any is."""
P50_SAMPLES, P90_SAMPLES, P95_SAMPLES, P99_SAMPLES = 11, 64, 130, 662
"""Fewest samples for a percentile at 99 % confidence (MLPerf loadgen's early-stopping bound)."""
CLEAN_SAMPLES = 30
"""Fewest undisturbed samples whose median is given,"""
CLEAN_SHARE = 0.1
"""and the least share of all: where an inference hardly fits between two turns of others, only the shortest do."""
NO_STEADY_STATE = "no_steady_state: a warm-up reached no plateau"
"""Note of a measurement whose warm-up ended by its cap."""


@dataclass(frozen=True)
class MeasurementProtocol:
    """How long is measured. Times are in seconds."""

    repetitions: int = 3
    """Fresh processes; the spread between them is part of the result (3 in a search, 5 for finalists)."""
    spare: int = 3
    """Further processes, in place of repetitions that others disturbed, or added until the median is known well."""
    patience: float = 30.0
    """Where guests of the same host use its memory, the processes sample on for so long together, and the calmer half
    is kept; 0 does not look for them."""
    seconds: float = 1.0
    """Sampling in each of them, at least."""
    samples: int = 30
    """Inferences in each of them, at least: 64 in all give a 90th percentile."""
    warmup_seconds: float = 0.5
    """At least, in windows of half of it and of 5 inferences; it ends when two window medians in a row agree
    to ``plateau``."""
    warmup_cap: float = 10.0
    """Without a plateau until then there is none, and the result says so."""
    plateau: float = 0.03
    block_seconds: float = 0.05
    """Length of one artefact's turn when several are compared,"""
    block_samples: int = 5
    """and inferences in it, at least."""
    cap: float = 30.0
    """Sampling that has had its seconds ends here even without enough samples."""
    limit: float = 180.0
    """A process that does not answer for so long is killed, with all that it started."""


@dataclass(frozen=True)
class SampleBatch:
    """Inferences that a process ran in one go."""

    rows: Rows
    elsewhere: Mapping[str, float]
    """``seconds`` it took, and what else used the cores meanwhile (see ``cores.reading``)."""
    peak_bytes: int
    """Peak resident memory so far, without the images."""
    allocator_bytes: int | None = None
    """The most that torch's allocator has given out on a GPU so far; None where it has not been used."""


def column(rows: Rows, name: str) -> Rows:
    """Return one column."""
    return np.asarray(rows[:, COLUMNS.index(name)])


def is_undisturbed(rows: Rows) -> NDArray[np.bool_]:
    """Tell which inferences ran without losing a core."""
    return np.asarray(column(rows, "switches") == 0)


def is_clean(rows: Rows) -> NDArray[np.bool_]:
    """Tell which undisturbed inferences to look at: those after an undisturbed one, where there are enough, else all.

    The first after somebody else had the core finds its caches and predictors cold: 0.2 to 0.3 ms more, of 1.4 ms.
    """
    alone = is_undisturbed(rows)
    warm = alone & (column(rows, "switches_before") == 0)
    return warm if warm.sum() >= CLEAN_SAMPLES else alone


def milliseconds(rows: Rows, stage: Stage, mode: Mode) -> NDArray[np.float64]:
    """Return the times of a stage, of those inferences that the mode counts."""
    if mode == "clean":
        rows = rows[is_clean(rows)]
    return column(rows, f"{stage}_cpu_ns" if mode == "cpu" else f"{stage}_ns") / 1e6


def is_short(rows: Rows, threads: int) -> bool:
    """Tell whether inferences are short enough for undisturbed ones to be found."""
    mode: Mode = "cpu" if threads == 1 else "wall"  # on a busy machine wall time says how busy it is
    return bool(np.median(milliseconds(rows, "latency", mode)) < SHORT_MS)


def too_few_clean(rows: Rows, at_least: int = CLEAN_SAMPLES) -> str | None:
    """Say why too few inferences ran undisturbed for a median of them; None where there are enough."""
    alone = is_undisturbed(rows)
    if alone.sum() < at_least:
        return f"{alone.sum()} undisturbed samples, {at_least} are needed"
    if alone.mean() < CLEAN_SHARE:
        return f"{alone.mean():.0%} of the samples are undisturbed, the shortest; {CLEAN_SHARE:.0%} are needed"
    return None


def trusted(groups: Sequence[Rows], threads: int, device: str, at_least: int = P50_SAMPLES) -> Mode:
    """Choose what to look at when others used the cores too, the same for all groups.

    Measured beside a busy process on the same core: of short inferences the undisturbed ones hold to 5 %, of long ones
    the CPU time to 4 %, where wall time is off by a factor of two to nine. CPU time means nothing when several threads
    spin for one another, nor when a GPU does the work.
    """
    if device != "cpu":
        return "wall"
    if all(is_short(rows, threads) and too_few_clean(rows, at_least) is None for rows in groups):
        return "clean"
    return "cpu" if threads == 1 else "wall"


def steady(before: Rows, now: Rows, protocol: MeasurementProtocol, threads: int, device: str) -> bool:
    """Tell whether two windows of a warm-up have the same median.

    By the CPU time of a single thread, which others disturb least, unless it mostly waits for something;
    undisturbed samples would not do: those of two windows may be neighbours.
    """
    rows = np.concatenate([before, now])
    undisturbed = rows[is_undisturbed(rows)]
    stretch = column(undisturbed, "latency_ns") / np.maximum(1, column(undisturbed, "latency_cpu_ns"))
    waits = 2 * len(undisturbed) >= len(rows) and bool(np.median(stretch) > 2)
    mode: Mode = "cpu" if device == "cpu" and threads == 1 and not waits else "wall"
    first, second = (float(np.median(milliseconds(window, "latency", mode))) for window in (before, now))
    return abs(second - first) <= protocol.plateau * first
