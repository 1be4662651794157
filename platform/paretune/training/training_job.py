"""One training as an order: what is trained on what, and the folder that receives it; carried out by any process.

The folder holds ``unfinished/`` with the last state and a line for each epoch while the training goes on;
in the end the network (weights and structure) and ``training.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paretune.core.spec import fingerprint
from paretune.core.types import InputSize, Thresholds
from paretune.data.base import Dataset
from paretune.detectors.base import Detector
from paretune.training.extras import TrainingExtras
from paretune.training.history import UNFINISHED
from paretune.training.settings import Training


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class TrainingJob:
    """All that a worker is told; plain data, it opens the dataset by itself."""

    detector: Detector
    dataset: Dataset
    cache: Path
    """For what the dataset generates; the same place on all machines."""
    size: InputSize
    settings: Training
    folder: Path
    """Receives the network; the same place on all machines."""
    start: Path | None = None
    """Folder of a network to go on from; None begins with fresh weights."""
    how: TrainingExtras = field(default_factory=TrainingExtras)
    """What comes on top of the settings."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What is kept of what it finds, where it is validated."""

    @property
    def work(self) -> Path:
        """Return where the training keeps what it needs to be resumed."""
        return self.folder / UNFINISHED

    @property
    def key(self) -> str:
        """Return a name that no other training has."""
        what = (self.detector.named(), self.dataset.named(), str(self.size), self.settings.as_computed(), self.how.key)
        return f"{self.folder.name}-{fingerprint(*what)}"

    def is_done(self) -> bool:
        """Tell whether the network is there."""
        from paretune.storage.artefact import STRUCTURE

        return (self.folder / STRUCTURE).is_file()
