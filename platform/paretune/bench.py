"""What every trial of a sweep shares, and the images they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from paretune.job import Job
from paretune.structures import MEASURED_IMAGES, Data, Image, Split


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
