"""Comparing artefacts: interleaved in one run, so that what drifts drifts for all of them.

Single absolute times of two runs differ by far more than the artefacts do. Here all artefacts are
loaded, each in a process of its own, and run in short blocks while the others sleep; the ratio of two
of them is taken block by block, on the same images. Every order of a block row is followed by its
reverse (A B B A), which cancels a steady drift.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paretune.device_lock import alone_on
from paretune.profiling.cores import contention, shares
from paretune.profiling.environment import environment
from paretune.profiling.images import few_images, saved_images
from paretune.profiling.interval import STUDENT
from paretune.profiling.samples import (
    COLUMNS,
    NO_STEADY_STATE,
    Batch,
    Mode,
    Protocol,
    Rows,
    Stage,
    column,
    is_clean,
    is_short,
    is_undisturbed,
    milliseconds,
    too_few_clean,
)
from paretune.profiling.supervisor import LOADER, Worker
from paretune.profiling.watching import Look, Watched, watching
from paretune.structures import Image
from paretune.target import Target

TOLERANCE = {"cpu": 0.03, "cuda": 0.01}
"""Differences below this are ties, however sure."""
CLEAN_IN_BLOCK = 3
"""Undisturbed inferences without which a block counts as disturbed."""
CLEAN_BLOCKS = 2 / 3
"""Share of undisturbed blocks that each process needs: any two then have a third of their rows in common."""


@dataclass(frozen=True)
class Ratio:
    """Latency of one artefact as a share of another's."""

    ratio: float
    low: float
    high: float
    """95 % interval."""
    tolerance: float = TOLERANCE["cpu"]

    @property
    def verdict(self) -> Literal["faster", "slower", "tied"]:
        """Tell which is faster; tied when the interval holds 1 or the difference is below the tolerance."""
        least = 1 + self.tolerance  # either way: whose latency is divided by whose changes no verdict
        if self.high < 1 and self.ratio < 1 / least:
            return "faster"
        if self.low > 1 and self.ratio > least:
            return "slower"
        return "tied"


@dataclass(frozen=True)
class Comparison:
    """Medians of every block of every artefact."""

    rows: Rows
    """(N, 12) raw samples, the columns of ``samples.COLUMNS``."""
    place: NDArray[np.int64]
    """(N, 3) round, block and artefact of each sample."""
    latency: NDArray[np.float64]
    """(rounds, blocks, artefacts) milliseconds end to end; NaN for a block that was disturbed throughout."""
    network: NDArray[np.float64]
    """The same of the network alone."""
    mode: Mode
    """What the medians are of, for all artefacts alike: undisturbed samples, CPU time, or all samples."""
    baseline: int = 0
    """The artefact that others are compared with."""
    tolerance: float = TOLERANCE["cpu"]
    steady: bool = True
    """Whether every warm-up reached its plateau."""
    elsewhere: Mapping[str, float] = field(default_factory=dict)
    """What else used the cores, as shares (see ``cores.reading``)."""
    facts: tuple[Mapping[str, Any], ...] = ()
    """What really ran, read back, per artefact, and the environment."""
    gpu: Watched | None = None
    """The GPU before and after each round; None on a CPU, and where nobody watched."""

    def ratio(self, index: int, base: int | None = None, *, network: bool = False) -> Ratio:
        """Return the latency of one artefact as a share of another's (by default the baseline's).

        The interval is Student's, of the rounds' log ratios: blocks of one process depend on each other,
        processes do not. (A bootstrap over 3 to 5 processes claims 95 % and holds 77 to 92 %.)
        """
        values = self.network if network else self.latency
        logs = np.log(values[:, :, index] / values[:, :, self.baseline if base is None else base])
        rounds = np.nanmedian(logs, axis=1)
        centre = float(rounds.mean())
        quantile = STUDENT[min(len(rounds) - 1, len(STUDENT)) - 1]
        half = quantile * float(rounds.std(ddof=1)) / len(rounds) ** 0.5
        low, high = np.exp([centre - half, centre + half])
        return Ratio(float(np.exp(centre)), float(low), float(high), self.tolerance)

    def ratios(self, *, network: bool = False) -> list[Ratio]:
        """Return every artefact's latency as a share of the baseline's, in their order."""
        return [self.ratio(index, network=network) for index in range(self.latency.shape[2])]

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what a reader of the ratios must know; each begins with its flag."""
        told = [*contention(self.elsewhere), *(() if self.gpu is None else self.gpu.contended)]
        notes = [f"contended: {'; '.join(told)}"] if told else []
        notes += () if self.gpu is None else self.gpu.notes
        if not self.steady:
            notes.append(NO_STEADY_STATE)
        notes += few_images(self.facts[0]) if self.facts else []
        return tuple(notes)

    def save_samples(self, file: Path) -> None:
        """Keep the raw samples, one array per column, each sample with its round, block and artefact (npz)."""
        columns: dict[str, Any] = {name: column(self.rows, name) for name in COLUMNS}
        columns |= {name: self.place[:, n] for n, name in enumerate(("round", "block", "artefact"))}
        np.savez_compressed(file, **columns, clean=is_undisturbed(self.rows))

    def to_dict(self) -> dict[str, Any]:
        """Return medians (ms), ratios, intervals and verdicts, as plain data."""

        def told(ratio: Ratio) -> dict[str, Any]:
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
                    "latency": told(self.ratio(index)),
                    "network": told(self.ratio(index, network=True)),
                    "facts": dict(facts),
                }
                for index, facts in enumerate(self.facts)
            ],
        }


def compare(
    artefacts: Sequence[Path],
    images: Sequence[Image] | Path,
    target: Target,
    *,
    baseline: int = 0,
    rounds: int = 5,
    blocks: int = 8,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    loader: str = LOADER,
) -> Comparison:
    """Measure artefacts interleaved, alone on the target's device.

    Args:
        artefacts: their folders; all are in memory at once.
        images: RGB uint8, or a file of ``images.saved_images``; inferences take them in turn.
        target: device and threads.
        baseline: index of the one that others are compared with.
        rounds: times that all processes are started afresh; at least 2, for an interval.
        blocks: blocks of each artefact in a round; an even number, each order comes with its reverse.
        protocol: warm-up, length of a block, limits.
        loader: as in ``measure``.

    Raises:
        ValueError: too few rounds, or an odd number of blocks.
        RuntimeError: one of the processes died or hung; nothing is concluded then.
    """
    if rounds < 2 or blocks < 2 or blocks % 2:
        raise ValueError(f"at least 2 rounds and an even number of blocks are needed, not {rounds} and {blocks}")
    rng = np.random.default_rng(0)
    runs: list[list[list[Batch]]] = []  # (round, block, artefact)
    facts: list[dict[str, Any]] = []
    looks: list[Look] = []
    steady = True
    with alone_on(target.device), saved_images(images) as file, watching(target) as watch:
        surroundings = environment(target)
        for _ in range(rounds):
            with ExitStack() as stack:
                workers = [stack.enter_context(Worker(folder, file, target, protocol, loader)) for folder in artefacts]
                plateaus = [worker.warm_up() for worker in workers]  # each of them, whatever the first says
                steady = steady and all(plateaus)
                orders = [rng.permutation(len(workers)) for _ in range(blocks // 2)]
                rows = [order for pair in orders for order in (pair, pair[::-1])]
                with watch.around(*(worker.pid for worker in workers)) as seen:
                    runs.append([_row(workers, order, protocol.block_seconds, 5 * n) for n, order in enumerate(rows)])
                looks += seen
                facts = facts or [{**surroundings, **worker.facts} for worker in workers]
    mode = mode_of(runs, target)
    flat = [(place, runs[place[0]][place[1]][place[2]]) for place in np.ndindex(rounds, blocks, len(artefacts))]
    return Comparison(
        rows=np.concatenate([batch.rows for _, batch in flat]),
        place=np.concatenate([np.tile(place, (len(batch.rows), 1)) for place, batch in flat]),
        latency=_medians(runs, "latency", mode),
        network=_medians(runs, "network", mode),
        mode=mode,
        baseline=baseline,
        tolerance=TOLERANCE[target.device],
        steady=steady,
        elsewhere=shares([batch.elsewhere for _, batch in flat]),
        facts=tuple(facts),
        gpu=watch.told(looks),
    )


def _row(workers: Sequence[Worker], order: NDArray[np.int64], seconds: float, image: int) -> list[Batch]:
    """Let each worker run one block, in the order given; the answers are in the workers' own order.

    Two inferences before each block do not count: the worker has just slept, and its caches are others'.
    """
    found = {int(index): workers[int(index)].sample(seconds, 5, lead_in=2, image=image) for index in order}
    return [found[index] for index in range(len(workers))]


def mode_of(runs: Sequence[Sequence[Sequence[Batch]]], target: Target) -> Mode:
    """Choose what medians are taken of (see ``samples.trusted``), by blocks here, not by samples."""
    if target.device != "cpu":
        return "wall"
    clean = np.array([[[is_clean(b.rows).sum() >= CLEAN_IN_BLOCK for b in row] for row in blocks] for blocks in runs])
    rounds = [[np.concatenate([b.rows for b in column_]) for column_ in zip(*blocks, strict=True)] for blocks in runs]
    short = all(is_short(rows, target.threads) for artefacts in rounds for rows in artefacts)
    few = any(too_few_clean(rows, CLEAN_IN_BLOCK) for artefacts in rounds for rows in artefacts)
    if short and not few and clean.mean(axis=1).min() >= CLEAN_BLOCKS:
        return "clean"
    return "cpu" if target.threads == 1 else "wall"


def _medians(runs: Sequence[Sequence[Sequence[Batch]]], stage: Stage, mode: Mode) -> NDArray[np.float64]:
    def median(batch: Batch) -> float:
        times = milliseconds(batch.rows, stage, mode)
        enough = CLEAN_IN_BLOCK if mode == "clean" else 1
        return float(np.median(times)) if len(times) >= enough else float("nan")

    return np.array([[[median(batch) for batch in row] for row in blocks] for blocks in runs])
