"""Images per second of several processes at once, each on cores of its own, and of batches: apart from latency.

What a server with many requests asks (MLPerf's offline scenario, Reddi et al., arXiv:1911.02549): streams share caches
and memory, so two of them are less than twice as fast as one, and each inference takes longer. A batch of images is one
inference of the network, for which the first of them waits.
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
    """What several streams do in a second."""

    streams: int
    batch: int
    """Images of an inference."""
    threads: int
    """Of each stream."""
    images_per_second: float
    """Median of the rounds."""
    low: float
    high: float
    """Smallest and largest round."""
    latency_ms_p50: float
    """Of one inference, from images to boxes, while the others run."""
    notes: tuple[str, ...] = ()

    def tree(self) -> dict[str, Any]:
        """Return it as plain data."""
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
    """Let so many processes predict at once, alone on the target's device, and count what they all do meanwhile.

    Args:
        artefact: its folder.
        images: RGB uint8, or a file of ``images.saved_images``; every stream takes them in turn.
        target: device, and threads of each stream.
        streams: processes, each on cores of its own.
        protocol: rounds (``repetitions``, fresh processes each), their length and warm-up.
        batch: images of an inference.
        loader: as in ``measuring.measure``.

    Raises:
        UserError: there are fewer cores than they need.
        RuntimeError: a process died or hung, or they did not run at the same time.
    """
    cores = cores_of(target, streams)
    rates, times, elsewhere, steady = [], [], [], True
    with exclusive_device(target.device), saved_images(images) as file, ThreadPoolExecutor(streams) as pool:
        for _ in range(protocol.repetitions):
            with ExitStack() as stack:
                asked = (artefact, file, target, protocol, loader)
                workers = [stack.enter_context(Worker(*asked, own, batch, _all_but(own, cores))) for own in cores]
                plateaus = [worker.warm_up() for worker in workers]  # each of them, whatever the first says
                steady = steady and all(plateaus)
                turns = [pool.submit(worker.sample, protocol.seconds, protocol.samples) for worker in workers]
                found: list[SampleBatch] = [turn.result() for turn in turns]
            rates.append(batch * together([sampled.rows for sampled in found]))
            times += [milliseconds(sampled.rows, "latency", "wall") for sampled in found]
            elsewhere += [sampled.elsewhere for sampled in found]
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
    """Return the inferences per second of all streams while every one of them ran.

    An inference that began before, or ended after, counts by the share of it that lies between.

    Args:
        streams: of each the raw samples, the columns of ``samples.COLUMNS``; one clock for all.

    Raises:
        RuntimeError: there is no such time.
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
    """Refuse batches of an artefact that has none.

    Raises:
        UserError: it is an exported file.
    """
    if batch > 1 and artefact.format != "torch":
        told = f"{artefact.folder} runs on {next(iter(artefact.runtime))}, whose files are exported for one image"
        raise UserError(f"--batch {batch}: {told}; expected an artefact for eager or compiled")


def cores_of(target: Target, streams: int) -> list[list[int]]:
    """Share out cores to streams, each its own.

    Raises:
        UserError: there are too few.
    """
    needed, available = target.threads * streams, len(os.sched_getaffinity(0))
    if needed > available:
        each = "1 thread" if target.threads == 1 else f"{target.threads} threads"
        told = f"each of {each} on cores of their own, and this process may use {available}"
        raise UserError(f"{streams} streams, {told}: at most {available // target.threads}")
    chosen = choose_cores(needed)
    return [chosen[n * target.threads : (n + 1) * target.threads] for n in range(streams)]


def _all_but(own: Sequence[int], cores: Sequence[Sequence[int]]) -> list[int]:
    """Return the cores of the other streams."""
    return [core for others in cores if others is not own for core in others]


def _disturbed(elsewhere: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    told = contention(shares(elsewhere))
    return (f"contended: {'; '.join(told)}",) if told else ()
