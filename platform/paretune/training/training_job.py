"""One training as plain data, which any process can run: what is trained on what, and the folder for the result.

During the training the folder holds ``unfinished/`` with the last state and a line for each epoch; at its end the
network (weights and structure) and ``training.json``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from paretune.core.types import InputSize, Thresholds
from paretune.data.base import Dataset
from paretune.detectors.base import Detector
from paretune.training.extras import TrainingExtras
from paretune.training.history import UNFINISHED
from paretune.training.settings import Training


@dataclass(frozen=True)
class TrainingJob:
    """Everything that a worker needs, as plain data; it opens the dataset itself."""

    detector: Detector
    dataset: Dataset
    cache: Path
    """Folder for generated files of the dataset, with the same path on all machines."""
    size: InputSize
    settings: Training
    folder: Path
    """Folder that receives the network, with the same path on all machines."""
    start: Path | None = None
    """Folder of a network to start from; None starts from the detector's weights."""
    extras: TrainingExtras = field(default_factory=TrainingExtras)
    """Additions to the settings."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Thresholds of the postprocessing in evaluations."""

    @property
    def work(self) -> Path:
        """Return the folder of the state that the training is resumed from."""
        return self.folder / UNFINISHED

    def is_done(self) -> bool:
        """Return whether the trained network exists."""
        from paretune.storage.artefact import STRUCTURE

        return (self.folder / STRUCTURE).is_file()
