"""Throughput in images per second: several processes at once, each on cores of its own, and batches of images.

It is the figure of a server with many requests (MLPerf's offline scenario, Reddi et al., arXiv:1911.02549). Streams
share caches and memory, so that two of them are less than twice as fast as one, and each inference takes longer. A
batch of images is one inference of the network, for which the first image waits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from paretune.core.counts import counted
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.profiling.latency.samples import (
    NO_STEADY_STATE,
    MeasurementProtocol,
    Rows,
    SampleBatch,
    column,
    milliseconds,
)
from paretune.profiling.latency.shared_images import saved_images
from paretune.profiling.latency.worker_client import LOADER, Worker
from paretune.storage.artefact import Artefact
from paretune.system.cpu_cores import choose_cores, contention, shares
from paretune.system.device_lock import exclusive_device


@dataclass(frozen=True)
class Throughput:
    """The throughput of several streams."""

    streams: int
    batch: int
    """Images in an inference."""
    threads: int
    """Threads of each stream."""
    images_per_second: float
    """Median of the rounds."""
    low: float
    """Smallest throughput of a round."""
    high: float
    """Largest throughput of a round."""
    latency_ms_p50: float
    """Median latency of one inference, from images to boxes, while the other streams run."""
    notes: tuple[str, ...] = ()

    def tree(self) -> dict[str, Any]:
        """Return the throughput as plain data."""
        return {**vars(self), "notes": list(self.notes)}


def throughput(
    artefact: Path,
    images: Sequence[Image] | Path,
    target: Target,
    streams: int,
    protocol: MeasurementProtocol = MeasurementProtocol(),  # noqa: B008 - frozen
    *,
    batch: int = 1,
    loader: str = LOADER,
) -> Throughput:
    """Measure the throughput of processes that predict at the same time, alone on the target's device.

    Args:
        artefact: folder of the artefact.
        images: RGB uint8 images, or a file of ``saved_images``; every stream takes them in turn.
        target: device, and threads of each stream.
        streams: number of processes, each on cores of its own.
        protocol: rounds (``repetitions``, with fresh processes), their length and warm-up.
        batch: images in an inference.
        loader: ``module:function`` (folder, target) → predictor.

    Raises:
        UserError: there are fewer cores than the streams need.
        RuntimeError: a process died or hung, or they did not run at the same time.
    """
    cores = cores_of(target, streams)
    rates, times, elsewhere, steady = [], [], [], True
    with exclusive_device(target.device), saved_images(images) as file, ThreadPoolExecutor(streams) as pool:
        for _ in range(protocol.repetitions):
            with ExitStack() as stack:
                given = (artefact, file, target, protocol, loader)
                workers = [stack.enter_context(Worker(*given, own, batch, _all_but(own, cores))) for own in cores]
                plateaus = [worker.warm_up() for worker in workers]  # a list: every worker has to warm up
                steady = steady and all(plateaus)
                turns = [pool.submit(worker.sample, protocol.seconds, protocol.samples) for worker in workers]
                batches: list[SampleBatch] = [turn.result() for turn in turns]
            rates.append(batch * together([sampled.rows for sampled in batches]))
            times += [milliseconds(sampled.rows, "latency", "wall") for sampled in batches]
            elsewhere += [sampled.elsewhere for sampled in batches]
    notes = () if steady else (NO_STEADY_STATE,)
    return Throughput(
        streams=streams,
        batch=batch,
        threads=target.threads,
        images_per_second=median(rates),
        low=min(rates),
        high=max(rates),
        latency_ms_p50=float(np.median(np.concatenate(times))),
        notes=(*_disturbed(elsewhere), *notes),
    )


def together(streams: Sequence[Rows]) -> float:
    """Return the inferences per second of all streams in the time in which all of them ran.

    An inference that is partly outside of this time counts by its share inside.

    Args:
        streams: raw samples of each stream, with the columns ``samples.COLUMNS`` and one clock.

    Raises:
        RuntimeError: the streams never ran at the same time.
    """
    begins = [column(rows, "start_ns") for rows in streams]
    ends = [begin + column(rows, "latency_ns") for begin, rows in zip(begins, streams, strict=True)]
    first, last = max(int(begin[0]) for begin in begins), min(int(end[-1]) for end in ends)
    if first >= last:
        raise RuntimeError("the streams did not run at the same time: let them run for longer")
    done = 0.0
    for begin, end in zip(begins, ends, strict=True):
        inside = np.minimum(end, last) - np.maximum(begin, first)
        done += float((np.maximum(inside, 0) / (end - begin)).sum())
    return done / ((last - first) / 1e9)


def check_batch(artefact: Artefact, batch: int) -> None:
    """Raise an error if an artefact takes no batches of this size.

    Raises:
        UserError: the artefact is an exported file, and the batch has several images.
    """
    if batch > 1 and artefact.format != "torch":
        runtime = f"{artefact.folder} runs on {next(iter(artefact.runtime))}, whose files are exported for one image"
        raise UserError(f"--batch {batch}: {runtime}; expected an artefact for eager or compiled")


def cores_of(target: Target, streams: int) -> list[list[int]]:
    """Return the cores of each stream.

    Raises:
        UserError: there are too few cores.
    """
    needed, available = target.threads * streams, len(os.sched_getaffinity(0))
    if needed > available:
        each = counted(target.threads, "thread")
        needs = f"each of {each} on cores of their own, and this process may use {available}"
        raise UserError(f"{streams} streams, {needs}: at most {available // target.threads}")
    chosen = choose_cores(needed)
    return [chosen[n * target.threads : (n + 1) * target.threads] for n in range(streams)]


def _all_but(own: Sequence[int], cores: Sequence[Sequence[int]]) -> list[int]:
    """Return the cores of the other streams."""
    return [core for others in cores if others is not own for core in others]


def _disturbed(elsewhere: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    others = contention(shares(elsewhere))
    return (f"contended: {'; '.join(others)}",) if others else ()
