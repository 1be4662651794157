"""Artefacts profiled by hand: what each costs, stage by stage, and which is faster."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from paretune.bench import measuring_images
from paretune.data.base import Dataset
from paretune.errors import UserError
from paretune.folders import dataset_around, split_of
from paretune.profiling.comparison import Comparison, compare
from paretune.profiling.deployed import FIGURES, Deployed, deployed
from paretune.profiling.energy import FINALIST_WINDOW, Energy, energy
from paretune.profiling.latency import Latency
from paretune.profiling.measuring import measure
from paretune.profiling.nsight import Looks, look_at
from paretune.profiling.nsight_tables import nsight_tables
from paretune.profiling.operators import Operators, count
from paretune.profiling.samples import Protocol, milliseconds
from paretune.profiling.supervisor import saved_images
from paretune.profiling.tables import Rows, operator_tables, ratio_table, stage_table, throughput_table
from paretune.profiling.throughput import Throughput, check_batch, cores_of, throughput
from paretune.store import Artefact, new_folder, read_artefact
from paretune.target import Target


@dataclass(frozen=True)
class Wanted:
    """What is asked of a profile."""

    split: str = "val"
    repetitions: int = 5
    """Fresh processes of each artefact, and rounds of the comparison."""
    out: Path | None = None
    """Folder for the page, the figures and the raw samples."""
    operators: bool = True
    """Whether the operators of each artefact are counted too."""
    loads: tuple[tuple[int, int], ...] = ()
    """(processes at once, images of a batch) whose throughput is measured, too."""
    nsight: bool = False
    """Also look at the kernels with Nsight Compute."""
    patience: float = 30.0
    """Seconds in which to measure an artefact again while guests of the same host use its memory."""


@dataclass(frozen=True)
class Profile:
    """What artefacts cost on a target."""

    artefacts: tuple[Artefact, ...]
    latencies: tuple[Latency, ...]
    energies: tuple[Energy, ...]
    comparison: Comparison | None
    """Interleaved, against the first; None for one artefact alone."""
    target: Target
    images: int
    operators: tuple[Operators | str, ...] = ()
    """Of each artefact, or why they are not known; none if they were not asked for."""
    nsight: Looks | None = None
    """What Nsight Compute saw; None if it was not asked for."""
    besides: tuple[Deployed | str, ...] = ()
    """What a deployment of each does besides, or why it is not known."""
    throughputs: tuple[tuple[Throughput, ...], ...] = ()
    """Of each artefact, one for every load that was asked for."""

    @property
    def names(self) -> list[str]:
        """Return how the artefacts are called in tables and pictures: where they lie in the folder they share."""
        folders = [artefact.folder for artefact in self.artefacts]
        if len(folders) == 1:
            return [str(folders[0])]
        shared = os.path.commonpath([folder.absolute().parent for folder in folders])
        return [str(folder.absolute().relative_to(shared)) for folder in folders]

    def tables(self) -> list[Rows]:
        """Return all of it as tables."""
        names, each = self.names, zip_longest(self.names, self.latencies, self.energies, self.besides)
        tables = [] if self.comparison is None else [ratio_table(names, self.comparison)]
        tables += [stage_table(*artefact) for artefact in each]
        tables += [throughput_table(name, found) for name, found in zip(names, self.throughputs, strict=False) if found]
        tables += operator_tables(names, self.operators)
        return tables + ([] if self.nsight is None else nsight_tables(names, self.nsight))

    def tree(self) -> dict[str, Any]:
        """Return it as plain data, without raw samples."""
        artefacts = []
        for number, (latency, energy_) in enumerate(zip(self.latencies, self.energies, strict=True)):
            entry = {"artefact": str(self.artefacts[number].folder), **energy_.added_to(latency.to_dict())}
            if self.besides:
                _add_besides(entry, self.besides[number])
            if self.throughputs:
                entry["throughput"] = [found.tree() for found in self.throughputs[number]]
            counted = self.operators[number] if self.operators else None
            if isinstance(counted, str):
                entry["reasons"] = {**entry["reasons"], "operators": counted}
            elif counted is not None:
                entry["operators"] = counted.to_dict()
            artefacts.append(entry)
        return {
            "target": {"device": self.target.device, "threads": self.target.threads},
            "images": self.images,
            "artefacts": artefacts,
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "nsight": None if self.nsight is None else self.nsight.to_dict(),
        }


def profile_artefacts(
    folders: Sequence[Path],
    dataset: tuple[Dataset, Path] | None,
    target: Target,
    wanted: Wanted,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure each artefact alone on the device, then all of them interleaved, then count the operators of each.

    Args:
        folders: of artefacts; the first is what the others are compared with.
        dataset: whose images are used, and where it may keep what it generates; None takes that of the sweep or
            training the first artefact lies in.
        target: device and threads.
        wanted: split, processes, folder for the results.
        progress: called with a line before each measurement.

    Raises:
        UserError: no artefact, no images, one artefact named twice, too few cores for the streams, a batch for
            an exported file, or the folder is there already.
        RuntimeError: a measuring process died or hung.
    """
    artefacts = tuple(read_artefact(folder) for folder in folders)
    _check(folders, artefacts, target, wanted)
    opened, cache = dataset or dataset_around(folders[0])
    split = split_of(opened.open(cache), wanted.split)
    images = measuring_images(split)
    if not images:
        raise UserError(f"--split {wanted.split}: holds no images to measure on")
    protocol = Protocol(repetitions=wanted.repetitions, patience=wanted.patience)
    latencies, energies, besides, throughputs = [], [], [], []
    with saved_images(images) as file:
        for number, folder in enumerate(folders, start=1):
            progress(f"measuring {folder} ({number} of {len(folders)})")
            latencies.append(measure(folder, file, target, protocol))
            energies.append(energy(folder, file, target, seconds=FINALIST_WINDOW))
            besides.append(_deployed(folder, file, target))
        for folder in folders if wanted.loads else ():
            progress(f"throughput of {folder}")
            throughputs.append(
                tuple(throughput(folder, file, target, streams, batch=batch) for streams, batch in wanted.loads)
            )
        comparison = None
        if len(folders) > 1:
            progress("comparing, interleaved")
            comparison = compare(folders, file, target, rounds=max(2, wanted.repetitions))
        counted = []
        for folder, latency in zip(folders, latencies, strict=True) if wanted.operators else ():
            progress(f"counting the operators of {folder}")
            network = float(np.median(milliseconds(latency.rows, "network", latency.mode)))
            counted.append(count(folder, file, target, network, latency.mode))
        nsight = look_at(folders, file, target, progress) if wanted.nsight else None
    found = Profile(
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
    if wanted.out is not None:
        _write(found, wanted.out)
    return found


def _add_besides(entry: dict[str, Any], besides: Deployed | str) -> None:
    """Add what a deployment does besides to the plain data of an artefact, or why it is not known."""
    if isinstance(besides, str):
        entry["reasons"] |= dict.fromkeys(FIGURES, besides)
    else:
        entry["metrics"] |= besides.metrics()
        entry["reasons"] |= besides.reasons


def _deployed(folder: Path, images: Path, target: Target) -> Deployed | str:
    """Time what a deployment does besides; a process that died or hung is a reason, and costs no other figure."""
    try:
        return deployed(folder, images, target)
    except RuntimeError as error:
        return " ".join(str(error).split())


def _write(profile: Profile, folder: Path) -> None:
    """Write the page, the figures and the raw samples, all of them or nothing.

    Raises:
        UserError: the folder cannot be written.
    """
    from paretune.profiling.page import page

    try:
        with new_folder(folder) as draft:
            for number, latency in enumerate(profile.latencies):
                latency.save_samples(draft / f"samples-{number}.npz")
            for number, counted in enumerate(profile.operators):
                if not isinstance(counted, str) and counted.trace is not None:
                    (draft / f"trace-{number}.json.gz").write_bytes(counted.trace)
            if profile.comparison is not None:
                profile.comparison.save_samples(draft / "samples-interleaved.npz")
            (draft / "profile.json").write_text(json.dumps(profile.tree(), indent=1))
            if profile.nsight is not None:
                profile.nsight.save(draft)
            html = page(profile.names, profile.latencies, profile.operators, profile.tables(), profile.comparison)
            (draft / "profile.html").write_text(html)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def _check(folders: Sequence[Path], artefacts: Sequence[Artefact], target: Target, wanted: Wanted) -> None:
    """Refuse what can be known to be wrong before anything is measured."""
    places = [folder.resolve() for folder in folders]
    if twice := next((folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1), None):
        raise UserError(f"{twice}: named twice; an artefact is not compared with itself")
    if wanted.out is not None and wanted.out.exists():
        raise UserError(f"{wanted.out} exists already; name a new folder with --out")
    for streams, batch in wanted.loads:
        cores_of(target, streams)
        for artefact in artefacts:
            check_batch(artefact, batch)
