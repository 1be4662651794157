"""What killed processes leave in a sweep's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from paretune.storage.atomic_files import remove_left_drafts
from paretune.storage.trial_record import recorded_trials


def remove_leftovers(sweep_folder: Path) -> None:
    """Remove temporary files of dead processes, Tune's files, and the working folders of the sweep and its done trials.

    Args:
        sweep_folder: of a sweep all of whose trials are done; the caller holds its lock.
    """
    trials = [file.parent for file in recorded_trials(sweep_folder)]
    for folder in (sweep_folder, sweep_folder / "baseline", *sweep_folder.glob("front*"), *trials):
        remove_left_drafts(folder)
    shutil.rmtree(sweep_folder / "tune", ignore_errors=True)  # nobody reads them
    for folder in (sweep_folder, *trials):
        shutil.rmtree(folder / "work", ignore_errors=True)
