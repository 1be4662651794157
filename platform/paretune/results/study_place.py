"""The place of a sweep's study."""

from __future__ import annotations

from paretune.results.sweep_folder import Sweep
from paretune.search.study_database import StudyDatabase


def database_of(sweep: Sweep) -> StudyDatabase:
    """Return the database of a sweep's study; on a server, its name holds the time at which the sweep was made."""
    url = sweep.job.search.storage
    name = sweep.name if url is None else f"{sweep.name} {sweep.facts['created']:.0f}"
    return StudyDatabase(sweep.folder / "study.db", name, url)
