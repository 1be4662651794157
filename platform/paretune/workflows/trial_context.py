"""What every trial of a sweep shares, and the images they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.config.job import Job, Measuring
from paretune.core.types import Data
from paretune.profiling.latency.samples import MeasurementProtocol
from paretune.search.latency_scale import on_one_scale
from paretune.storage.trial_record import Record, read_record, read_records

if TYPE_CHECKING:
    from paretune.profiling.latency.samples import MeasurementProtocol


@dataclass(frozen=True)
class TrialContext:
    """What every trial of a sweep shares."""

    job: Job
    data: Data
    folder: Path
    """The sweep's folder; trials lie in ``trials/NNNN`` in it."""
    baseline: Path
    """Folder with the trained network (safetensors + structure manifest)."""
    cache: Path | None = None
    """Where the dataset keeps what it generates; workers of a trial open the dataset by themselves."""

    def trial_folder(self, number: int) -> Path:
        """Return the folder of one trial."""
        return self.folder / "trials" / f"{number:04d}"

    def scaled(self, record: Record) -> Record:
        """Return a trial's record with its latency on the sweep's scale, as it is known now."""
        return on_one_scale([*read_records(self.folder), record])[-1]

    def reference(self, number: int) -> Record | None:
        """Return the trial that a trial is measured beside: the unchanged network on ONNX Runtime, else in eager.

        None where neither is there yet, as for trial 0.
        """
        found = (read_record(self.folder, baseline) for baseline in (1, 0) if baseline < number)
        return next((record for record in found if record is not None and record.artefact is not None), None)


WARMUP = 0.3
"""Seconds of a warm-up at least: every block has a lead-in besides, and a duet starts six processes or more."""


def protocol_of(measuring: Measuring = Measuring()) -> MeasurementProtocol:  # noqa: B008 - frozen
    """Return how thoroughly a trial is measured."""
    from paretune.profiling.latency.samples import MeasurementProtocol

    return MeasurementProtocol(
        repetitions=measuring.repetitions,
        spare=measuring.spare,
        seconds=measuring.seconds,
        patience=measuring.patience,
        warmup_seconds=WARMUP,
        block_samples=3,
    )
