"""Profiles of artefacts: the cost of each, stage by stage, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from paretune.core.errors import FailureReason, UserError, one_line
from paretune.core.target import Target
from paretune.data.base import Dataset
from paretune.data.left_out import lines_of
from paretune.data.splits import split_of
from paretune.profiling.energy.measure import FINALIST_WINDOW, Energy, energy, unavailable
from paretune.profiling.latency.compare import Comparison, compare
from paretune.profiling.latency.deployment import DeploymentLatency, deployed
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import MeasurementProtocol, milliseconds
from paretune.profiling.latency.shared_images import measuring_images, saved_images
from paretune.profiling.latency.throughput import Throughput, check_batch, cores_of, throughput
from paretune.profiling.nsight.run import look_at
from paretune.profiling.operators import OperatorTimes, count
from paretune.reports.profile_report import Profile
from paretune.results.locate import dataset_around
from paretune.runtimes.predictor import check_loadable
from paretune.storage.artefact import Artefact
from paretune.system.cpu_cores import choose_cores
from paretune.system.device_lock import shared_device

T = TypeVar("T")
UNMEASURED = "its latency could not be measured"


@dataclass(frozen=True)
class ProfileOptions:
    """Options of a profile."""

    split: str = "val"
    repetitions: int = 5
    """Fresh processes of each artefact, and rounds of the comparison."""
    operators: bool = True
    """Whether the operators of each artefact are timed."""
    loads: tuple[tuple[int, int], ...] = ()
    """(processes at the same time, images of a batch) for measurements of throughput."""
    nsight: bool = False
    """Whether the kernels are profiled with Nsight Compute."""
    patience: float = 30.0
    """Seconds of further sampling while guests of the same host use its memory."""


def profile_artefacts(
    folders: Sequence[Path],
    dataset: tuple[Dataset, Path] | None,
    target: Target,
    wanted: ProfileOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure each artefact alone on the device, then all of them interleaved, then the operators of each.

    A failed measurement becomes a reason in the profile (``Profile.failures``).

    Args:
        folders: of artefacts; the others are compared with the first.
        dataset: (dataset, its cache); None takes those of the sweep or training around the first artefact.
        target: device and threads.
        wanted: options.
        progress: called with a line before each measurement.

    Raises:
        UserError: no artefact, one that this machine or target cannot run, no images, one artefact named twice, too
            few cores for threads and streams, or a batch for an exported file.
        RuntimeError: no artefact could be measured: the processes died or hung.
    """
    artefacts = tuple(check_loadable(folder, target) for folder in folders)
    _check(folders, artefacts, target, wanted)
    opened, cache = dataset or dataset_around(folders[0])
    data = opened.open(cache)
    for line in lines_of(data):
        progress(line)
    split = split_of(data, wanted.split)
    with shared_device(target.device):  # decoding keeps a core busy
        images = measuring_images(split)
    if not images:
        raise UserError(f"--split {wanted.split}: holds no images to measure on")
    with saved_images(images) as file:
        latencies, energies, besides = _alone(folders, file, target, wanted, progress)
        known = [folder for folder, latency in zip(folders, latencies, strict=True) if isinstance(latency, Latency)]
        if not known:
            told = zip(folders, latencies, strict=True)
            raise RuntimeError("; ".join(f"{folder}: {reason}" for folder, reason in told))
        throughputs = []
        for folder, latency in zip(folders, latencies, strict=True) if wanted.loads else ():
            progress(f"throughput of {folder}")
            throughputs.append(() if isinstance(latency, str) else _loaded(folder, file, target, wanted.loads))
        comparison: Comparison | str | None = None
        if len(folders) > 1:
            progress("comparing, interleaved")
            comparison = _compared(folders, known, file, target, wanted)
        counted: list[OperatorTimes | str] = []
        for folder, latency in zip(folders, latencies, strict=True) if wanted.operators else ():
            if isinstance(latency, str):
                counted.append(UNMEASURED)
                continue
            progress(f"counting the operators of {folder}")
            network = float(np.median(milliseconds(latency.rows, "network", latency.mode)))
            counted.append(_or_reason(count, folder, file, target, network, latency.mode))
        nsight = look_at(folders, file, target, progress) if wanted.nsight else None
    return Profile(
        artefacts,
        tuple(latencies),
        tuple(energies),
        comparison,
        target,
        len(images),
        tuple(counted),
        nsight,
        tuple(besides),
        tuple(throughputs),
    )


def _or_reason(measure: Callable[..., T], *given: Any, **named: Any) -> T | FailureReason:
    """Return the result of a measurement, or the reason for its failure."""
    try:
        return measure(*given, **named)
    except (RuntimeError, UserError) as error:
        return FailureReason(one_line(error))


def _alone(
    folders: Sequence[Path], images: Path, target: Target, wanted: ProfileOptions, progress: Callable[[str], None]
) -> tuple[list[Latency | str], list[Energy], list[DeploymentLatency | str]]:
    """Measure latency, energy and deployment of each artefact alone; without a latency, nothing else."""
    protocol = MeasurementProtocol(repetitions=wanted.repetitions, patience=wanted.patience)
    latencies: list[Latency | str] = []
    energies: list[Energy] = []
    besides: list[DeploymentLatency | str] = []
    for number, folder in enumerate(folders, start=1):
        progress(f"measuring {folder} ({number} of {len(folders)})")
        latencies.append(_or_reason(measure, folder, images, target, protocol))
        if isinstance(latencies[-1], str):
            energies.append(unavailable(UNMEASURED))
            besides.append(UNMEASURED)
            continue
        used = _or_reason(energy, folder, images, target, seconds=FINALIST_WINDOW)
        energies.append(unavailable(used, failed=True) if isinstance(used, str) else used)
        besides.append(_or_reason(deployed, folder, images, target))
    return latencies, energies, besides


def _loaded(
    folder: Path, images: Path, target: Target, loads: Sequence[tuple[int, int]]
) -> tuple[Throughput | str, ...]:
    """Return the throughput of an artefact under each load, or why it is unknown."""
    found: list[Throughput | str] = []
    for streams, batch in loads:
        one = _or_reason(throughput, folder, images, target, streams, batch=batch)
        found.append(f"{streams} streams, batch {batch}: not known, {one}" if isinstance(one, str) else one)
    return tuple(found)


def _compared(
    folders: Sequence[Path], known: Sequence[Path], images: Path, target: Target, wanted: ProfileOptions
) -> Comparison | str:
    """Return the comparison of the artefacts that could be measured, or why there is none."""
    if folders[0] not in known:
        return f"{folders[0]}, which the others are compared with, could not be measured"
    if len(known) == 1:
        return f"only {known[0]} could be measured"
    return _or_reason(compare, known, images, target, rounds=max(2, wanted.repetitions))


def _check(folders: Sequence[Path], artefacts: Sequence[Artefact], target: Target, wanted: ProfileOptions) -> None:
    """Raise an error for options that cannot be carried out."""
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise UserError(f"{twice}: named twice; an artefact is not compared with itself")
    choose_cores(target.threads)
    for streams, batch in wanted.loads:
        cores_of(target, streams)
        for artefact in artefacts:
            check_batch(artefact, batch)
