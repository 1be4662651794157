"""What every trial of a sweep shares, and the images they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from paretune.job import Job
from paretune.structures import Data, Image, Split

MEASURED_IMAGES = 100
"""Images that inferences take in turn while they are timed."""


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


def measuring_images(split: Split) -> list[Image]:
    """Return the fixed images on which artefacts are measured: the first of a split; of a sweep, those of ``val``."""
    return [split.image(index) for index in range(min(MEASURED_IMAGES, len(split)))]
