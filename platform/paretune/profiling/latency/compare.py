"""Comparison of artefacts, measured interleaved in one run, so that drift affects all of them alike.

Absolute times of two runs differ by far more than the artefacts do. Here all artefacts are loaded, each in a process of
its own, and run in short blocks while the others sleep. Slowdowns that all of them share within tenths of a second are
removed from every row of blocks before artefacts are compared (median polish: Tukey, Exploratory Data Analysis, 1977).
For two artefacts this is the median of the ratios of neighbouring blocks, the duet of Bulej et al., Duet Benchmarking,
ICPE 2020.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paretune.core.devices import DeviceKind, device_kind
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.environment import environment
from paretune.profiling.gpu.contention import GpuContention, monitor_device
from paretune.profiling.latency.median_interval import NORMAL, student_quantile
from paretune.profiling.latency.rounds import MeasuringRound, MeasuringSettings, run_round
from paretune.profiling.latency.samples import (
    COLUMNS,
    NO_STEADY_STATE,
    MeasurementProtocol,
    Mode,
    Rows,
    SampleBatch,
    Stage,
    column,
    is_clean,
    is_short,
    is_undisturbed,
    milliseconds,
    too_few_clean,
)
from paretune.profiling.latency.shared_images import few_images, saved_images
from paretune.profiling.latency.worker_client import LOADER
from paretune.system.cpu_cores import contention, shares
from paretune.system.device_lock import exclusive_device

CLEAN_IN_BLOCK = 3
"""Fewest undisturbed inferences of a block that counts as undisturbed."""
CLEAN_BLOCKS = 2 / 3
"""Share of undisturbed blocks that each process needs; any two processes then share a third of their rows."""
MEDIAN_ERROR = 1.2533 * 1.4826
"""Standard error of the median of n normal values as a multiple of their median absolute deviation over sqrt(n)."""


@dataclass(frozen=True)
class LatencyRatio:
    """Latency of one artefact as a share of another's, with its 95 % interval."""

    ratio: float
    low: float
    high: float
    tolerance: float = DeviceKind.tolerance

    @property
    def half(self) -> float:
        """Return half the width of the interval as a share of the ratio: 0.03 is ±3 %."""
        return float((self.high / self.low) ** 0.5 - 1)

    @property
    def verdict(self) -> Literal["faster", "slower", "tied"]:
        """Return the verdict; a tie if the interval holds 1 or the difference is below the tolerance."""
        least = 1 + self.tolerance  # symmetric: the verdict does not depend on which latency is divided by which
        if self.high < 1 and self.ratio < 1 / least:
            return "faster"
        if self.low > 1 and self.ratio > least:
            return "slower"
        return "tied"


def ratio_figures(whole: LatencyRatio, network: LatencyRatio) -> dict[str, float]:
    """Return the ratios of the whole inference and of the network, with intervals, under the names in records."""
    parts = {"": whole, "network_": network}
    return {f"{part}{end}": getattr(ratio, end) for part, ratio in parts.items() for end in ("ratio", "low", "high")}


@dataclass(frozen=True)
class Comparison:
    """Result of an interleaved measurement: medians of every block of every artefact."""

    rows: Rows
    """(N, 12) raw samples, the columns of ``samples.COLUMNS``."""
    place: NDArray[np.int64]
    """(N, 3) round, block and artefact of each sample."""
    latency: NDArray[np.float64]
    """(rounds, blocks, artefacts) median milliseconds end to end; NaN for a block without valid samples."""
    network: NDArray[np.float64]
    """(rounds, blocks, artefacts) median milliseconds of the network; NaN for a block without valid samples."""
    mode: Mode
    """Samples of the medians, the same for all artefacts: undisturbed ones, CPU time, or all."""
    baseline: int = 0
    """Index of the artefact with which the others are compared."""
    tolerance: float = DeviceKind.tolerance
    steady: bool = True
    """True if every warm-up reached its plateau."""
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    """Shares by which others used the cores (see ``cpu_cores.reading``)."""
    facts: tuple[Mapping[str, Any], ...] = ()
    """The runtime's own facts and the environment, for each artefact."""
    gpu: GpuContention | None = None
    """The GPU before and after each round; None on a CPU, or if it was not watched."""

    @cached_property
    def _levels(self) -> dict[bool, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """The `levels` of all artefacts: False → of the whole inference, True → of the network."""
        return {False: levels(self.latency), True: levels(self.network)}

    def ratio(self, index: int, base: int | None = None, *, network: bool = False) -> LatencyRatio:
        """Return the latency of one artefact as a share of another's, by default the baseline's.

        The interval is Student's, over the rounds' log ratios: blocks of one process depend on each other, processes
        do not. (A bootstrap over 3 to 5 processes that claims 95 % covers 77 to 92 %.) It is at least as wide as the
        error of the blocks, since rounds may agree by chance. Ratios are consistent: the ratio of a to c is the ratio
        of a to b times the ratio of b to c.
        """
        of_rounds, of_blocks = self._levels[network]
        other = self.baseline if base is None else base
        rounds = of_rounds[:, index] - of_rounds[:, other]
        centre, between = float(rounds.mean()), float("inf")
        if len(rounds) > 1:
            between = student_quantile(len(rounds) - 1) * float(rounds.std(ddof=1)) / len(rounds) ** 0.5
        blocks = of_blocks[:, :, index] - of_blocks[:, :, other]
        known = blocks[~np.isnan(blocks)]
        within = NORMAL * MEDIAN_ERROR * float(np.median(np.abs(known))) / max(1, len(known)) ** 0.5
        half = 0.0 if index == other else max(between, within)
        low, high = np.exp([centre - half, centre + half])
        return LatencyRatio(float(np.exp(centre)), float(low), float(high), self.tolerance)

    def ratios(self, *, network: bool = False) -> list[LatencyRatio]:
        """Return the latency of each artefact as a share of the baseline's."""
        return [self.ratio(index, network=network) for index in range(self.latency.shape[2])]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return remarks for readers of the ratios; each begins with its flag."""
        others = [*contention(self.elsewhere), *(() if self.gpu is None else self.gpu.contended)]
        notes = [f"contended: {'; '.join(others)}"] if others else []
        notes += () if self.gpu is None else self.gpu.notes
        if not self.steady:
            notes.append(NO_STEADY_STATE)
        notes += few_images(self.facts[0]) if self.facts else []
        return tuple(notes)

    def save_samples(self, file: Path) -> None:
        """Write the raw samples (npz), an array for each column and for the samples' rounds, blocks and artefacts."""
        columns: dict[str, Any] = {name: column(self.rows, name) for name in COLUMNS}
        columns |= {name: self.place[:, n] for n, name in enumerate(("round", "block", "artefact"))}
        np.savez_compressed(file, **columns, clean=is_undisturbed(self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return medians (ms), ratios, intervals and verdicts as plain data."""

        def tree(ratio: LatencyRatio) -> dict[str, Any]:
            return {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high, "verdict": ratio.verdict}

        return {
            "mode": self.mode,
            "baseline": self.baseline,
            "rounds": self.latency.shape[0],
            "notes": list(self.notes),
            "elsewhere": dict(self.elsewhere),
            "gpu": None if self.gpu is None else self.gpu.tree(),
            "artefacts": [
                {
                    "latency_ms_p50": float(np.nanmedian(self.latency[:, :, index])),
                    "network_ms_p50": float(np.nanmedian(self.network[:, :, index])),
                    "latency": tree(self.ratio(index)),
                    "network": tree(self.ratio(index, network=True)),
                    "facts": dict(facts),
                }
                for index, facts in enumerate(self.facts)
            ],
        }


def compare(  # noqa: PLR0913 - passed by name
    artefacts: Sequence[Path],
    images: Sequence[Image] | Path,
    target: Target,
    *,
    baseline: int = 0,
    rounds: int = 5,
    blocks: int = 8,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    loader: str = LOADER,
    count: Callable[[int, int], None] = lambda _done, _of: None,
) -> Comparison:
    """Measure artefacts interleaved, alone on the target's device.

    Args:
        artefacts: folders of the artefacts, which are all in memory at once.
        images: RGB uint8 images, or a file of ``saved_images``; inferences take them in turn.
        target: device and threads.
        baseline: index of the artefact with which the others are compared.
        rounds: number of times that all processes are started; at least 2, for an interval.
        blocks: blocks of each artefact in a round, an even number, since each order is followed by its reverse.
        protocol: warm-up, length of a block, time limits.
        loader: ``module:function`` (folder, target) → predictor.
        count: called before each round with the number done and the number of all; no process measures then.

    Raises:
        ValueError: there are too few rounds, or an odd number of blocks.
        RuntimeError: one of the processes died or hung.
    """
    if rounds < 2 or blocks < 2 or blocks % 2:
        raise ValueError(f"at least 2 rounds and an even number of blocks are needed, not {rounds} and {blocks}")
    rng = np.random.default_rng(0)
    with exclusive_device(target.device), saved_images(images) as file, monitor_device(target) as watch:
        surroundings = environment(target)
        setting = MeasuringSettings(file, target, protocol, watch, loader)
        results = []
        for number in range(rounds):
            count(number, rounds)
            results.append(run_round(artefacts, setting, rng, blocks=blocks))
    gpu = watch.contention([look for one in results for look in one.looks])
    return summarised(results, target, surroundings, gpu, baseline=baseline)


def summarised(
    rounds: Sequence[MeasuringRound],
    target: Target,
    surroundings: Mapping[str, Any],
    gpu: GpuContention | None,
    *,
    baseline: int = 0,
) -> Comparison:
    """Return the comparison from rounds of the same artefacts, cut to the smallest number of blocks.

    Args:
        rounds: the rounds, at least one.
        target: device and threads.
        surroundings: ``environment.environment`` of the target.
        gpu: contention on the GPU.
        baseline: index of the artefact with which the others are compared.
    """
    blocks = min(len(one.batches) for one in rounds)
    runs = [one.batches[:blocks] for one in rounds]
    mode = mode_of(runs, target)
    flat = [
        ((r, b, a), batch)
        for r, of_round in enumerate(runs)
        for b, row in enumerate(of_round)
        for a, batch in enumerate(row)
    ]
    return Comparison(
        rows=np.concatenate([batch.rows for _, batch in flat]),
        place=np.concatenate([np.tile(place, (len(batch.rows), 1)) for place, batch in flat]),
        latency=_medians(runs, "latency", mode),
        network=_medians(runs, "network", mode),
        mode=mode,
        baseline=baseline,
        tolerance=device_kind(target.device).tolerance,
        steady=all(one.steady for one in rounds),
        elsewhere=shares([batch.elsewhere for _, batch in flat]),
        facts=tuple({**surroundings, **facts} for facts in rounds[0].facts),
        gpu=gpu,
    )


def levels(medians: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the level of each artefact in each round without the slowdowns of whole rows of blocks, and residuals.

    Args:
        medians: (rounds, blocks, artefacts) milliseconds; NaN for an unknown block.

    Returns:
        Levels (rounds, artefacts) as natural logarithms, and the residual (rounds, blocks, artefacts) of each block.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a row without any known block
        logs = np.log(medians)
        own = np.nanmedian(logs, axis=1, keepdims=True)
        rows = np.nanmedian(logs - own, axis=2, keepdims=True)
        found = np.nanmedian(logs - rows, axis=1, keepdims=True)
    return found[:, 0], logs - rows - found


def mode_of(runs: Sequence[Sequence[Sequence[SampleBatch]]], target: Target) -> Mode:
    """Return the samples of which medians are taken: as ``samples.trusted``, but by blocks."""
    if target.device != "cpu":
        return "wall"
    clean = np.array([[[is_clean(b.rows).sum() >= CLEAN_IN_BLOCK for b in row] for row in blocks] for blocks in runs])
    rounds = [[np.concatenate([b.rows for b in column_]) for column_ in zip(*blocks, strict=True)] for blocks in runs]
    short = all(is_short(rows, target.threads) for artefacts in rounds for rows in artefacts)
    few = any(too_few_clean(rows, CLEAN_IN_BLOCK) for artefacts in rounds for rows in artefacts)
    if short and not few and clean.mean(axis=1).min() >= CLEAN_BLOCKS:
        return "clean"
    return "cpu" if target.threads == 1 else "wall"


def _medians(runs: Sequence[Sequence[Sequence[SampleBatch]]], stage: Stage, mode: Mode) -> NDArray[np.float64]:
    def median(batch: SampleBatch) -> float:
        times = milliseconds(batch.rows, stage, mode)
        enough = CLEAN_IN_BLOCK if mode == "clean" else 1
        return float(np.median(times)) if len(times) >= enough else float("nan")

    return np.array([[[median(batch) for batch in row] for row in blocks] for blocks in runs])
