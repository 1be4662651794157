"""One round of an interleaved measurement, with each artefact in a fresh process and in short blocks in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paretune.core.target import Target
from paretune.profiling.gpu.contention import GpuMonitor, GpuSnapshot
from paretune.profiling.latency.samples import MeasurementProtocol, SampleBatch
from paretune.profiling.latency.worker_client import LOADER, Worker

LEAD_IN, LONG = 2, 0.05
"""Inferences at the beginning of a block that do not count, and seconds of an inference from which on one is enough.

The process has slept, and its caches hold data of others."""
FEWEST_BLOCKS, MOST_BLOCKS = 8, 16
"""Limits of the number of blocks in a round: three rounds of the fewest blocks, of three inferences, give a 90th
percentile."""


@dataclass(frozen=True)
class MeasuringRound:
    """Samples of fresh processes, one for each artefact, that ran in turn."""

    batches: tuple[tuple[SampleBatch, ...], ...]
    """(block, artefact) samples of each turn."""
    steady: bool
    """True if every warm-up reached its plateau."""
    facts: tuple[dict[str, Any], ...]
    """The runtime's own facts for each artefact, with ``load_ms`` and ``first_inference_ms``."""
    looks: tuple[GpuSnapshot, ...]
    """The GPU before and after the round; empty on a CPU."""


@dataclass(frozen=True)
class MeasuringSettings:
    """The common settings of all rounds."""

    images: Path
    """File of ``saved_images``."""
    target: Target
    protocol: MeasurementProtocol
    watch: GpuMonitor
    loader: str = LOADER


def run_round(
    artefacts: Sequence[Path], setting: MeasuringSettings, rng: np.random.Generator, *, blocks: int | None = None
) -> MeasuringRound:
    """Start a process for each artefact, warm all of them up, and run them in blocks in turn.

    Every order of the artefacts is followed by its reverse (A B B A), which cancels a steady drift.

    Args:
        artefacts: folders of the artefacts.
        setting: images, target, protocol.
        rng: source of the orders.
        blocks: blocks of each artefact, an even number; None fills ``protocol.seconds`` for each artefact.

    Raises:
        UserError: an artefact is damaged, or the machine has too few cores.
        RuntimeError: a process died or did not answer.
    """
    protocol, target = setting.protocol, setting.target
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(folder, setting.images, target, protocol, setting.loader))
            for folder in artefacts
        ]
        plateaus = [worker.warm_up() for worker in workers]  # a list: every worker has to warm up
        turns = _turns(workers, protocol) if blocks is None else blocks
        orders = [rng.permutation(len(workers)) for _ in range(turns // 2)]
        rows = [order for pair in orders for order in (pair, pair[::-1])]
        with setting.watch.around(*(worker.pid for worker in workers), own=workers[0].pid) as looks:
            batches = [turn(workers, order, protocol, number) for number, order in enumerate(rows)]
        return MeasuringRound(tuple(batches), all(plateaus), tuple(worker.facts for worker in workers), tuple(looks))


def _turns(workers: Sequence[Worker], protocol: MeasurementProtocol) -> int:
    """Return the even number of blocks that fills ``protocol.seconds`` for the slowest artefact."""
    slowest = max(worker.inference_seconds for worker in workers)
    block = max(protocol.block_seconds, protocol.block_samples * slowest)
    return 2 * round(float(np.clip(protocol.seconds / block, FEWEST_BLOCKS, MOST_BLOCKS)) / 2)


def turn(
    workers: Sequence[Worker], order: NDArray[np.int64], protocol: MeasurementProtocol, number: int
) -> tuple[SampleBatch, ...]:
    """Return a block of each worker in their order, run on the same images in the given order."""
    fewest = protocol.block_samples
    batches = {}
    for index in map(int, order):
        lead_in = 1 if workers[index].inference_seconds > LONG else LEAD_IN
        batches[index] = workers[index].sample(protocol.block_seconds, fewest, lead_in=lead_in, image=fewest * number)
    return tuple(batches[index] for index in range(len(workers)))
