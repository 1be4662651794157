"""Changes of a sweep's budget after its beginning."""

from __future__ import annotations

import json

from pydantic import ValidationError

from paretune.config.job import Job
from paretune.config.output_folder import SWEEP_FILE
from paretune.core.errors import UserError
from paretune.results.sweep_folder import Sweep
from paretune.storage.atomic_files import write_text
from paretune.storage.trial_record import read_records


def change_search(
    sweep: Sweep, *, trials: int | None = None, concurrent: int | None = None, **budget: float | None
) -> Sweep:
    """Change the budget of a sweep, which may be finished, or the number of trials at the same time.

    Args:
        sweep: found by ``find_sweep``.
        trials: all trials, with the baselines and the finished ones; None keeps the number.
        concurrent: trials at the same time; None keeps the number.
        **budget: ``hours`` and ``device_hours`` of the search, with those that are over, and ``allow_unlearned``; None
            keeps a field.

    Raises:
        UserError: fewer trials than before, a number out of range, or another process runs the sweep.
    """
    before = sweep.job.search.trials
    if trials is not None and trials < before:
        raise UserError(f"--trials {trials}: sweep {sweep.name!r} may try {before} already; give {before + 1} or more")
    given = {"trials": trials, "concurrent": concurrent, **budget}
    changes = {field: value for field, value in given.items() if value is not None}
    job = {**sweep.facts["job"], "search": {**sweep.facts["job"]["search"], **changes}}
    try:
        Job.model_validate(job)
    except ValidationError as error:
        told = error.errors()[0]
        field = str(told["loc"][-1])
        raise UserError(f"--{field.replace('_', '-')} {changes[field]}: {told['msg']}") from error
    with sweep.lock():
        done, larger = len(read_records(sweep.folder)), set(changes) - {"concurrent", "allow_unlearned"}
        goes_on = larger and done < (trials or before)
        limited = goes_on and (sweep.ended or sweep.job.search.stop_when_flat)
        facts = {**sweep.facts, "job": job, **({"extended_at": done} if limited else {})}
        write_text(sweep.folder / SWEEP_FILE, json.dumps(facts, indent=1))
        for mark in ("exhausted", "finished", "ended") if goes_on else ():
            (sweep.folder / mark).unlink(missing_ok=True)
    return Sweep(sweep.runs, sweep.name)
