"""One sweep from its job to its front: the only place where trials, Ray, Optuna and MLflow meet."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.results.folder_claims import removed_if_failed
from paretune.results.front_summary import comparison_of
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_record import Record, forget_record, read_record, read_records
from paretune.workflows.baseline import baseline_failure, first_recipes, look_at_data, take_baseline, train_baseline
from paretune.workflows.front_comparison import compare, context_of
from paretune.workflows.machine_check import refuse_impossible, with_runtime_checked
from paretune.workflows.sweep_reporter import SweepReporter
from paretune.workflows.trial import not_run, run
from paretune.workflows.trial_context import TrialContext


@dataclass(frozen=True)
class SweepResult:
    """How a run of a sweep ended."""

    finished: bool
    """False when Ctrl-C stopped it: ``paretune resume`` goes on."""
    records: tuple[Record, ...]


def run_sweep(sweep: Sweep, *, address: str | None = None, new: bool = False) -> SweepResult:
    """Carry out what of a sweep is not done yet: baseline, trials, comparison of the front, log.

    Args:
        sweep: made by ``folders.new_sweep`` or found by ``folders.find_sweep``.
        address: the Ray cluster to join; None starts a private Ray on this machine.
        new: ``new_sweep`` has made its folder just now: it is removed where a mistake ends the sweep before anything
            is done, so that the same command works when the mistake is put right.

    Raises:
        UserError: somebody else runs it, the data or the weights cannot be read, the cluster cannot give what the job
            asks for, or the eager baseline failed, so that there is nothing to compare with.
    """
    from paretune.distributed import ray_session as session

    with (
        session.terminated_like_interrupted(),
        sweep.lock(),
        removed_if_failed(sweep.folder, lambda: not new or sweep.begun),
    ):
        reporter = SweepReporter(sweep)
        try:
            if not sweep.finished:
                look_at_data(sweep, reporter.say, elsewhere=address is not None)
                take_baseline(sweep, reporter.say)
                reporter.say(f"sweep {sweep.name}: {sweep.job.search.trials} trials; starting Ray")
                with session.session(sweep.runs, address, nested=sweep.job.training.by_ray):
                    refuse_impossible(sweep.job, elsewhere=address is not None)
                    train_baseline(sweep, reporter.say, elsewhere=address is not None)
                    reporter.started()
                    run_trials(sweep, reporter, share=session.cores() if address is None else 0)
                if len(read_records(sweep.folder)) < sweep.job.search.trials and not sweep.exhausted:
                    return SweepResult(finished=False, records=tuple(read_records(sweep.folder)))
                compare(sweep, reporter, address)
                sweep.mark_finished()
                shutil.rmtree(sweep.folder / "tune", ignore_errors=True)  # Tune's own files; nobody reads them
            elif "reason" in (comparison_of(sweep) or {}):
                compare(sweep, reporter, address)
            reporter.finished()
        except KeyboardInterrupt:
            return SweepResult(finished=False, records=tuple(read_records(sweep.folder)))
        return SweepResult(finished=True, records=tuple(read_records(sweep.folder)))


def normal_recipe(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return a drawn recipe with every field filled in."""
    return Recipe.model_validate(raw).tree()


def run_trials(sweep: Sweep, reporter: SweepReporter, *, share: float) -> None:
    """Let Tune run what is left of the budget; the trials share that many cores between them if they ask for fewer.

    A baseline that failed is run again: what was wrong may have passed, or been put right.

    Raises:
        UserError: the eager baseline failed, or lacks a metric that is asked for.
    """
    from paretune.distributed import ray_session as session
    from paretune.distributed.tune_searcher import StudySearcher
    from paretune.distributed.tune_trials import run_trials as tune_trials
    from paretune.search.study import Study, StudySettings

    for record in read_records(sweep.folder):
        if record.origin == "baseline" and record.state == "failed":
            reporter.say(f"trial {record.number} is a baseline and failed; it is run again")
            forget_record(sweep.folder, record.number)
    job, records = sweep.job, read_records(sweep.folder)
    if share:  # all trials run here, so that this machine can be asked
        records = [with_runtime_checked(record, job.target) for record in records]
    left = job.search.trials - len(records)
    if left <= 0:
        return
    setup = StudySettings(
        space=sweep.space,
        objectives=job.objectives,
        violations=sweep.violations,
        sampler=job.search.sampler,
        seed=job.search.seed,
        normal=normal_recipe,
        fixed=first_recipes(job),
    )
    study = Study(sweep.folder / "study.db", sweep.name, setup, records)
    searcher = StudySearcher(study, functools.partial(record_of, sweep.folder), reporter.trial_done)
    resources = job.resources.by_ray_name()
    if job.training.by_ray:
        resources = {**job.resources.custom, **session.NEXT_TO_NOTHING}  # the workers of its fine-tuning need the rest
    else:
        resources["CPU"] = max(resources["CPU"], share // job.search.concurrent)
    tune_trials(
        functools.partial(run_in_worker, str(sweep.runs.resolve()), sweep.name),
        searcher,
        count=left,
        concurrent=job.search.concurrent,
        resources=resources,
        folder=sweep.folder,
        nested=job.training.by_ray,
    )
    if searcher.exhausted:
        sweep.mark_exhausted()
    if problem := baseline_failure(sweep):
        raise UserError(problem)


def run_in_worker(runs: str, name: str, proposal: dict[str, Any]) -> dict[str, Any]:
    """Run one trial in a Ray worker and return its number and state; called by Tune."""
    try:
        context = _context_in_worker(runs, name)
    except (OSError, UserError) as error:  # another machine than that on which the sweep began
        record = not_run(Path(runs) / name, proposal, " ".join(str(error).split()))
    else:
        recipe = Recipe.model_validate(proposal["recipe"])
        record = run(context, proposal["number"], recipe, origin=proposal["origin"])
    return {"number": record.number, "state": record.state}


@functools.lru_cache(maxsize=1)
def _context_in_worker(runs: str, name: str) -> TrialContext:
    """Open dataset and job once in a worker that runs many trials."""
    return context_of(Sweep(Path(runs), name))


def record_of(folder: Path, proposal: Mapping[str, Any]) -> Record:
    """Return a finished trial's record; one whose worker died before writing it gets a failed one."""
    record = read_record(folder, proposal["number"])
    return record or not_run(folder, proposal, "the worker died (out of memory, or killed)")
