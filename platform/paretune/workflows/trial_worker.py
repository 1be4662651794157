"""Trials in the workers of Ray Tune, and what becomes of one whose process died."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from paretune.config.recipe import Recipe
from paretune.core.counts import counted
from paretune.core.errors import UserError, one_line
from paretune.distributed.train_workers import training_nodes
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_events import EventLog, read_events
from paretune.storage.trial_record import Record, read_record, trial_folder
from paretune.workflows.core_sharing import cores_of
from paretune.workflows.rungs import decision
from paretune.workflows.trial import run
from paretune.workflows.trial_context import TrialContext, context_of
from paretune.workflows.trial_failure import not_run

DIED = "its process ended without a record: killed, out of memory, or node lost"


def run_in_worker(runs: str, name: str, proposal: dict[str, Any]) -> dict[str, Any]:
    """Run one trial in a worker of Tune's and return its number and state."""
    try:
        context = context_in_worker(runs, name)
    except (OSError, UserError) as error:  # another machine than that on which the sweep began
        record = not_run(Path(runs) / name, proposal, one_line(error))
    else:
        number, origin = proposal["number"], proposal["origin"]
        decide = decision(context.state, context.job, number, drawn=origin == "sampled")
        recipe = Recipe.model_validate(proposal["recipe"])
        EventLog(context.trial_folder(number)).add("started", "", recipe=recipe.tree())
        with cores_of(context.sharing), training_nodes(context.job.resources.labels):
            ended = run(context, number, recipe, origin=origin, decide=decide)
        if ended is None:
            return {"number": number, "state": "paused"}
        record = ended
    return {"number": record.number, "state": record.state}


@functools.lru_cache(maxsize=1)
def context_in_worker(runs: str, name: str) -> TrialContext:
    """Return what trials share, opened once in a worker that runs many of them."""
    return context_of(Sweep(Path(runs), name))


def record_of(
    folder: Path, proposal: Mapping[str, Any], *, retries: int = 0, say: Callable[[str], None] = lambda _: None
) -> Record | None:
    """Return the record of a trial that ended, or None if its process died without one and it is to be run again.

    Args:
        folder: of the sweep.
        proposal: number, recipe and origin of the trial.
        retries: times that a trial is run again; after so many deaths it gets a failed record.
        say: prints a line on a death.
    """
    number = proposal["number"]
    if (record := read_record(folder, number)) is not None:
        return record
    place = trial_folder(folder, number)
    events = read_events(place)
    deaths = 1 + sum(event.kind == "died" for event in events)
    lost = events[-1].reason if events and events[-1].kind == "failed" else None  # the node of a target
    EventLog(place).add("died", "", reason=lost or DIED)
    times = counted(deaths, "time")
    if deaths <= retries:
        say(f"trial {number}: {lost or 'its process died'}; it is run again ({deaths} of {retries} times)")
        return None
    return not_run(
        folder, proposal, f"{lost}, {times}" if lost else f"the process died {times} (killed, out of memory)"
    )
