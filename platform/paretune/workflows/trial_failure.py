"""The records of trials that failed: by an error, by a stage that hangs, or before they ran."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from paretune.config.recipe import Recipe
from paretune.core.errors import UnfitRuntimeError, UserError
from paretune.core.secret_texts import without_secrets
from paretune.storage.trial_record import KEPT, RUNTIME_UNAVAILABLE, STAGES, Record, write_record
from paretune.workflows.build_artefact import kept_of
from paretune.workflows.stages import Stages
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_guard import end_process, is_full_disk


def give_up(context: TrialContext, identity: tuple[int, Any, Any, str], stages: Stages, reason: str) -> None:
    """Write the failed record of a trial one of whose stages hangs, and end this process."""
    facts = {STAGES: stages.done}
    write_record(
        context.folder, Record.failed(*identity, f"TimeoutError: {reason}", seconds=stages.seconds, facts=facts)
    )
    stages.ended("failed", reason)
    end_process()


FAILURE = "failure.txt"
"""File with the traceback of a failed trial."""


def failed_record(
    context: TrialContext,
    identity: tuple[int, Mapping[str, Any], Mapping[str, Any], str],
    error: Exception,
    stages: Stages,
    started: float,
) -> Record:
    """Write the traceback of the error that is being handled, and return the record of the failed trial.

    On a full disk the traceback is not written: the trial waits for space, and is carried out again.
    """
    folder = context.trial_folder(identity[0])
    folder.mkdir(parents=True, exist_ok=True)
    kept = kept_of(folder)
    hint = f"\nwhat was made until then is kept, for `paretune optimize` to go on from: {kept}\n" if kept else ""
    text = without_secrets(traceback.format_exc()) + hint
    with suppress(OSError) if is_full_disk(error) else nullcontext():
        (folder / FAILURE).write_text(text)
    kind = "UserError" if isinstance(error, UserError) else type(error).__name__
    facts: dict[str, Any] = {RUNTIME_UNAVAILABLE: True} if isinstance(error, UnfitRuntimeError) else {}
    facts |= {KEPT: str(kept.relative_to(context.folder))} if kept else {}
    facts[STAGES] = stages.done
    failure = without_secrets(f"{kind}: {error}".strip())
    return Record.failed(*identity, failure, started=started, seconds=stages.seconds, facts=facts)


def not_run(folder: Path, proposal: Mapping[str, Any], why: str) -> Record:
    """Write and return the failed record of a trial that did not run.

    Args:
        folder: of the sweep.
        proposal: number, recipe and origin of the trial.
        why: reason, the record's ``failure``.
    """
    recipe = Recipe.model_validate(proposal["recipe"])
    record = Record.failed(proposal["number"], recipe.tree(), recipe.params(), proposal["origin"], why)
    write_record(folder, record)
    return record
