"""Comparing artefacts: interleaved in one run, so that what drifts drifts for all of them.

Single absolute times of two runs differ by far more than the artefacts do. Here all artefacts are
loaded, each in a process of its own, and run in short blocks in random order while the others sleep;
the ratio of two of them is taken block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from paretune.device_lock import alone_on
from paretune.profiling.supervisor import COLUMNS, LOADER, Batch, Protocol, Worker, saved_images
from paretune.structures import Image
from paretune.target import Target

TOLERANCE = 0.03
"""Differences under 3 % are ties on a CPU."""
SHORT_MS = 20.0
Mode = Literal["clean", "cpu", "wall"]


@dataclass(frozen=True)
class Ratio:
    """Latency of one artefact as a share of another's."""

    ratio: float
    low: float
    high: float
    """95 % interval, by bootstrap over processes and blocks."""

    @property
    def verdict(self) -> Literal["faster", "slower", "tied"]:
        """Tell which is faster; tied when the interval holds 1 or the difference is under 3 %."""
        if self.high < 1 and self.ratio < 1 - TOLERANCE:
            return "faster"
        if self.low > 1 and self.ratio > 1 + TOLERANCE:
            return "slower"
        return "tied"


@dataclass(frozen=True)
class Comparison:
    """Medians of every block of every artefact."""

    latency: NDArray[np.float64]
    """(rounds, blocks, artefacts) milliseconds end to end."""
    network: NDArray[np.float64]
    """The same of the network alone."""
    mode: Mode
    """What the medians are of: undisturbed samples, CPU time, or all samples."""

    def ratio(self, index: int, base: int, *, network: bool = False) -> Ratio:
        """Return the latency of one artefact as a share of another's."""
        values = self.network if network else self.latency
        logs = np.log(values[:, :, index] / values[:, :, base])
        rng = np.random.default_rng(0)
        rounds, blocks = logs.shape
        draws = np.empty(2000)
        for draw in range(len(draws)):
            chosen = logs[rng.integers(rounds, size=rounds)]
            draws[draw] = np.median(np.take_along_axis(chosen, rng.integers(blocks, size=(rounds, blocks)), axis=1))
        low, high = np.percentile(draws, [2.5, 97.5])
        return Ratio(float(np.exp(np.median(logs))), float(np.exp(low)), float(np.exp(high)))


def compare(
    artefacts: Sequence[Path],
    images: Sequence[Image],
    target: Target,
    *,
    rounds: int = 3,
    blocks: int = 12,
    block_seconds: float = 0.1,
    protocol: Protocol = Protocol(),  # noqa: B008 - frozen
    loader: str = LOADER,
) -> Comparison:
    """Measure artefacts interleaved, alone on the target's device.

    Args:
        artefacts: their folders.
        images: RGB uint8; inferences take them in turn.
        target: device and threads.
        rounds: times that all processes are started afresh.
        blocks: blocks of each artefact in a round.
        block_seconds: length of a block, at least 5 inferences.
        protocol: warm-up and limits.
        loader: as in ``measure``.

    Raises:
        RuntimeError: one of the processes died or hung; nothing is concluded then.
    """
    rng = np.random.default_rng(0)
    runs: list[list[list[Batch]]] = []  # (round, block, artefact)
    with saved_images(images) as file, alone_on(target.device):
        for _ in range(rounds):
            with ExitStack() as stack:
                workers = []
                for artefact in artefacts:
                    worker = stack.enter_context(Worker(artefact, file, target, protocol.limit, loader))
                    worker.warm_up(protocol)
                    workers.append(worker)
                runs.append(
                    [_block(workers, rng.permutation(len(workers)), block_seconds, protocol) for _ in range(blocks)]
                )
    mode = _mode(runs, target.threads)
    return Comparison(_medians(runs, "latency_ns", mode), _medians(runs, "network_ns", mode), mode)


def _block(workers: Sequence[Worker], order: NDArray[np.int64], seconds: float, protocol: Protocol) -> list[Batch]:
    """Let each worker run once, in the order given; the answers are in the workers' own order."""
    found = {int(index): workers[int(index)].sample(seconds, 5, protocol.cap) for index in order}
    return [found[index] for index in range(len(workers))]


def _mode(runs: Sequence[Sequence[Sequence[Batch]]], threads: int) -> Mode:
    """Choose what medians are taken of, the same for every artefact.

    Samples without an involuntary switch hold for short inferences even on a busy machine; of long ones
    there are none, and the CPU time of a single thread holds.
    """
    batches = [batch for blocks in runs for row in blocks for batch in row]
    short = all(np.median(batch.rows[:, COLUMNS.index("latency_ns")]) < SHORT_MS * 1e6 for batch in batches)
    clean = all((batch.rows[:, COLUMNS.index("switches")] == 0).sum() >= 3 for batch in batches)
    if short and clean:
        return "clean"
    return "cpu" if threads == 1 else "wall"


def _medians(runs: Sequence[Sequence[Sequence[Batch]]], column: str, mode: Mode) -> NDArray[np.float64]:
    def median(batch: Batch) -> float:
        rows = batch.rows
        if mode == "clean":
            rows = rows[rows[:, COLUMNS.index("switches")] == 0]
        if mode == "cpu" and column == "latency_ns":
            return float(np.median(rows[:, COLUMNS.index("cpu_ns")])) / 1e6
        if mode == "cpu":  # the network's share of the wall time, of the CPU time
            share = rows[:, COLUMNS.index(column)] / rows[:, COLUMNS.index("latency_ns")]
            return float(np.median(share * rows[:, COLUMNS.index("cpu_ns")])) / 1e6
        return float(np.median(rows[:, COLUMNS.index(column)])) / 1e6

    return np.array([[[median(batch) for batch in row] for row in blocks] for blocks in runs])
