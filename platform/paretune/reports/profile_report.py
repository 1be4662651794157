"""A profile: the costs of artefacts on a target, as tables, as plain data, as a page and as a folder of files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from paretune.core.errors import FailureReason, UserError
from paretune.core.target import Target
from paretune.profiling.energy.measure import Energy
from paretune.profiling.latency.compare import Comparison
from paretune.profiling.latency.deployment import FIGURES, DeploymentLatency
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.throughput import Throughput
from paretune.profiling.nsight.run import NsightResults
from paretune.profiling.operators import OperatorTimes
from paretune.reports.html import Picture, report_page
from paretune.reports.nsight_tables import nsight_tables
from paretune.reports.profile_tables import operator_tables, ratio_table, stage_table, throughput_table
from paretune.reports.tables import Table
from paretune.storage.artefact import Artefact
from paretune.storage.atomic_files import new_folder

ABOUT = """For each artefact alone on the device, the share of inferences that took at most this time. The line is the
median, which is the p50 end to end of its table, the band the smallest and largest median of its processes."""
DRAWN = "The last two columns of the table below, with their 95 % intervals."


@dataclass(frozen=True)
class Profile:
    """The costs of artefacts on a target; a text in the place of a measurement is why it is missing."""

    artefacts: tuple[Artefact, ...]
    latencies: tuple[Latency | str, ...]
    energies: tuple[Energy, ...]
    comparison: Comparison | str | None
    """Interleaved comparison with the first, of the artefacts with known latency; None for a single one."""
    target: Target
    images: int
    operators: tuple[OperatorTimes | str, ...] = ()
    """Operators of each artefact; empty if they were not asked for."""
    nsight: NsightResults | None = None
    """Kernels by Nsight Compute; None if they were not asked for."""
    besides: tuple[DeploymentLatency | str, ...] = ()
    """Further stages of a deployment of each artefact."""
    throughputs: tuple[tuple[Throughput | str, ...], ...] = ()
    """Throughput of each artefact under each load that was asked for."""

    @property
    def names(self) -> list[str]:
        """Return the artefacts' names in tables and pictures: their paths in the folder that they share."""
        folders = [artefact.folder for artefact in self.artefacts]
        if len(folders) == 1:
            return [str(folders[0])]
        shared = os.path.commonpath([folder.absolute().parent for folder in folders])
        return [str(folder.absolute().relative_to(shared)) for folder in folders]

    @property
    def measured(self) -> list[tuple[str, Latency]]:
        """Return names and latencies of the artefacts that were measured."""
        pairs = zip(self.names, self.latencies, strict=True)
        return [(name, latency) for name, latency in pairs if isinstance(latency, Latency)]

    @property
    def failures(self) -> list[str]:
        """Return a line for each measurement that failed."""
        lines = []
        each = zip_longest(self.names, self.latencies, self.energies, self.besides, self.throughputs)
        for name, latency, energy, besides, loads in each:
            if isinstance(latency, str):  # no further measurement was tried
                lines.append(f"{name}: {latency}")
                continue
            lines += [f"{name}: energy: {energy.reasons['energy_mj_image']}"] if energy.failed else []
            lines += [f"{name}: decoding and sure boxes: {besides}"] if isinstance(besides, str) else []
            lines += [f"{name}: throughput of {load}" for load in loads or () if isinstance(load, str)]
        counted = zip(self.names, self.operators, strict=False)
        lines += [f"{name}: operators: {one}" for name, one in counted if isinstance(one, FailureReason)]
        lines += [f"comparison: {self.comparison}"] if isinstance(self.comparison, str) else []
        return lines + ([] if self.nsight is None else self.nsight.failures(self.names))

    def tables(self) -> list[Table]:
        """Return the profile as tables."""
        names = self.names
        tables = []
        if isinstance(self.comparison, str):
            tables.append(Table("interleaved", notes=(f"comparison: not known, {self.comparison}",)))
        elif self.comparison is not None:
            tables.append(ratio_table([name for name, _ in self.measured], self.comparison))
        for name, latency, energy, besides in zip_longest(names, self.latencies, self.energies, self.besides):
            if isinstance(latency, str):
                tables.append(Table(name, notes=(f"latency: not known, {latency}",)))
            else:
                tables.append(stage_table(name, latency, energy, besides))
        tables += [throughput_table(name, loads) for name, loads in zip(names, self.throughputs, strict=False) if loads]
        tables += operator_tables(names, self.operators)
        return tables + ([] if self.nsight is None else nsight_tables(names, self.nsight))

    def tree(self) -> dict[str, Any]:
        """Return the profile as plain data, without raw samples."""
        return {
            "target": {"device": self.target.device, "threads": self.target.threads},
            "images": self.images,
            "artefacts": [self._entry(number) for number in range(len(self.artefacts))],
            "comparison": self._compared(),
            "nsight": None if self.nsight is None else self.nsight.to_dict(),
            "failures": self.failures,
        }

    def _entry(self, number: int) -> dict[str, Any]:
        latency = self.latencies[number]
        entry: dict[str, Any] = {"artefact": str(self.artefacts[number].folder)}
        if isinstance(latency, str):
            return {**entry, "metrics": {}, "reasons": {"latency_ms_p50": latency}}
        entry |= self.energies[number].added_to(latency.to_dict())
        if self.besides:
            besides = self.besides[number]
            known, reasons = (
                ({}, dict.fromkeys(FIGURES, besides))
                if isinstance(besides, str)
                else (besides.metrics(), besides.reasons)
            )
            entry["metrics"], entry["reasons"] = {**entry["metrics"], **known}, {**entry["reasons"], **reasons}
        if self.throughputs:
            loads = self.throughputs[number]
            entry["throughput"] = [{"reason": load} if isinstance(load, str) else load.tree() for load in loads]
        counted = self.operators[number] if self.operators else None
        if isinstance(counted, str):
            entry["reasons"] = {**entry["reasons"], "operators": counted}
        elif counted is not None:
            entry["operators"] = counted.to_dict()
        return entry

    def _compared(self) -> dict[str, Any] | None:
        """Return the comparison as plain data, with the folders of its artefacts."""
        if self.comparison is None or isinstance(self.comparison, str):
            return None if self.comparison is None else {"artefacts": [], "reason": self.comparison}
        tree = self.comparison.to_dict()
        pairs = zip(self.artefacts, self.latencies, strict=True)
        folders = [str(artefact.folder) for artefact, latency in pairs if isinstance(latency, Latency)]
        named = zip(folders, tree["artefacts"], strict=True)
        return {**tree, "artefacts": [{"artefact": folder, **entry} for folder, entry in named]}


def profile_page(
    measured: Sequence[tuple[str, Latency]],
    tables: Sequence[Table],
    comparison: Comparison | None = None,
) -> str:
    """Return the page of a profile as HTML, its drawings inside.

    Args:
        measured: name of each artefact and its latency alone.
        tables: the profile's tables.
        comparison: the comparison of the measured artefacts, or None.
    """
    from paretune.reports.profile_plots import distributions, ratios

    names, latencies = zip(*measured, strict=True)
    shown = (
        [] if comparison is None else [Picture("times as fast as the first", ratios(names, comparison), about=DRAWN)]
    )
    latency = Picture("distribution of latencies", distributions(names, latencies), "Latencies", ABOUT)
    return report_page("Profile", [*shown, *tables, latency])


def write_profile(profile: Profile, folder: Path) -> None:
    """Write the page, the figures and the raw samples into a new folder, which exists only if all are written.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        with new_folder(folder) as draft:
            for number, latency in enumerate(profile.latencies):
                if isinstance(latency, Latency):
                    latency.save_samples(draft / f"samples-{number}.npz")
            for number, counted in enumerate(profile.operators):
                if not isinstance(counted, str) and counted.trace is not None:
                    (draft / f"trace-{number}.json.gz").write_bytes(counted.trace)
            comparison = profile.comparison if isinstance(profile.comparison, Comparison) else None
            if comparison is not None:
                comparison.save_samples(draft / "samples-interleaved.npz")
            (draft / "profile.json").write_text(json.dumps(profile.tree(), indent=1))
            if profile.nsight is not None:
                profile.nsight.save(draft)
            (draft / "profile.html").write_text(profile_page(profile.measured, profile.tables(), comparison))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
