"""What every trial of a sweep shares, and the images they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

from paretune.config.job import Job, Measuring
from paretune.core.types import MEASURED_IMAGES, Data, Image, Split
from paretune.search.latency_scale import on_one_scale
from paretune.storage.trial_record import Record, read_record, read_records

if TYPE_CHECKING:
    from paretune.profiling.latency.samples import Protocol


@dataclass(frozen=True)
class Bench:
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


class _Decoded(Sequence[Image]):
    """Images of a split, each decoded when it is asked for and not kept: photographs fill the memory."""

    def __init__(self, split: Split, indices: range) -> None:
        self._split, self._indices = split, indices

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Image: ...

    @overload
    def __getitem__(self, index: slice) -> _Decoded: ...

    def __getitem__(self, index: int | slice) -> Image | _Decoded:
        if isinstance(index, slice):
            return _Decoded(self._split, self._indices[index])
        return self._split.image(self._indices[index])


def measuring_images(split: Split) -> Sequence[Image]:
    """Return the fixed images on which artefacts are measured: the first of a split; of a sweep, those of ``val``.

    Each is decoded when it is asked for.
    """
    return _Decoded(split, range(min(MEASURED_IMAGES, len(split))))


WARMUP = 0.3
"""Seconds of a warm-up at least: every block has a lead-in besides, and a duet starts six processes or more."""


def protocol_of(measuring: Measuring = Measuring()) -> Protocol:  # noqa: B008 - frozen
    """Return how thoroughly a trial is measured."""
    from paretune.profiling.latency.samples import Protocol

    return Protocol(
        repetitions=measuring.repetitions,
        spare=measuring.spare,
        seconds=measuring.seconds,
        patience=measuring.patience,
        warmup_seconds=WARMUP,
        block_samples=3,
    )
