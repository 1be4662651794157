"""A sweep of which only the target can be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def in_a_sweep(sweep: Path, **target: Any) -> Path:
    """Make a sweep of a job that nobody can read but for its target; returns the place of an artefact."""
    artefact = sweep / "trials" / "0004" / "artefact"
    artefact.mkdir(parents=True)
    job = {"dataset": {"of_a_package": {}}, "targets": {"mine": target}}
    (sweep / "sweep.json").write_text(json.dumps({"job": job}))
    return artefact
