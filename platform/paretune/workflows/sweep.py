"""One sweep from its job to its front: the only module where trials, Ray, Optuna and MLflow meet."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace

from paretune.config.recipe import present_names
from paretune.core.counts import counted
from paretune.core.errors import UserError
from paretune.distributed import tune_trials
from paretune.distributed.tune_schedulers import HalvingScheduler
from paretune.results.folder_claims import removed_if_failed
from paretune.results.search_budget import SearchBudget, budget_text
from paretune.results.sweep_folder import Sweep
from paretune.storage.trial_events import EventLog
from paretune.storage.trial_record import Record, forget_record, read_records
from paretune.workflows.baseline import baseline_failure, look_at_data, take_baseline, train_baseline
from paretune.workflows.compare_front import COMPARE, MeasureFront, compare_at_end, compare_front, comparison_failed
from paretune.workflows.core_sharing import decide_sharing
from paretune.workflows.like_machines import note_machines
from paretune.workflows.machine_check import refuse_impossible, with_runtime_checked
from paretune.workflows.rungs import Rungs
from paretune.workflows.stages import Stages
from paretune.workflows.sweep_leftovers import remove_leftovers
from paretune.workflows.sweep_reporter import SweepReporter
from paretune.workflows.sweep_study import complete_study, opened_study
from paretune.workflows.trial_guard import full_disk_as_user_error
from paretune.workflows.trial_worker import record_of, run_in_worker

Tuner = Callable[..., None]
"""Runs trials, called as ``tune_trials.run_trials`` is."""


@dataclass(frozen=True)
class SweepResult:
    """State of a sweep after a run of it."""

    finished: bool
    """False if Ctrl-C stopped it; ``paretune resume`` goes on."""
    records: tuple[Record, ...]


def run_sweep(
    sweep: Sweep,
    *,
    address: str | None = None,
    new: bool = False,
    accept_changes: bool = False,
    reporter: SweepReporter | None = None,
    tuner: Tuner = tune_trials.run_trials,
    measure: MeasureFront = compare_front,
) -> SweepResult:
    """Carry out the rest of a sweep: baseline, trials, comparison of the front, log.

    Args:
        sweep: made by ``new_sweep`` or found by ``find_sweep``.
        address: of the Ray cluster to join; None starts a private Ray on this machine.
        new: remove the sweep's folder if a mistake ends the sweep before anything is done, so that the same command
            works once the mistake is put right.
        accept_changes: go on although data, space, versions or machine are not those of the trials so far.
        reporter: prints and logs the sweep; None makes one.
        tuner: runs the trials.
        measure: measures the front at the end.

    Raises:
        UserError: another process runs it, the data or the weights cannot be read, the cluster lacks resources that
            the job asks for, the eager baseline failed, a resumed sweep has changed, or the disk is full.
    """
    from paretune.distributed import ray_session as session
    from paretune.distributed.node_tasks import cluster_nodes

    with (
        session.terminated_like_interrupted(),
        full_disk_as_user_error(sweep.command("resume")),
        sweep.lock(),
        removed_if_failed(sweep.folder, lambda: not new or sweep.begun),
    ):
        reporter = reporter or SweepReporter(sweep)
        stages = Stages(events=None if sweep.finished else EventLog(sweep.folder))  # for those who watch
        try:
            if not sweep.finished:
                EventLog(sweep.folder).add("started", "")
                look_at_data(sweep, reporter.say, elsewhere=address is not None, accept_changes=accept_changes)
                take_baseline(sweep, reporter.say)
                reporter.prepare()
                reporter.say(f"sweep {sweep.name}: {budget_text(sweep.job.search)}; starting Ray")
                with session.session(sweep.runs, address, nested=sweep.job.training.by_ray):
                    refuse_impossible(sweep.job, elsewhere=address is not None)
                    if address is not None:
                        note_machines(sweep, cluster_nodes(), accept=accept_changes)
                    with stages.stage("baseline"):
                        train_baseline(sweep, reporter.say, stages.on_step, elsewhere=address is not None)
                    with stages.stage("probe"):
                        decide_sharing(sweep, reporter.say, elsewhere=address is not None)
                    reporter.started()
                    cores = session.cores() if address is None else 0
                    with stages.stage("search"):
                        run_trials(sweep, reporter, share=cores, tuner=tuner)
                done = sweep.exhausted or sweep.ended is not None
                if len(read_records(sweep.folder)) < sweep.job.search.trials and not done:
                    return SweepResult(finished=False, records=tuple(read_records(sweep.folder)))
                with stages.stage(COMPARE):
                    compare_at_end(sweep, reporter, address, measure)
                sweep.mark_finished()
            elif comparison_failed(sweep):
                compare_at_end(sweep, reporter, address, measure)
            remove_leftovers(sweep.folder)
            with stages.stage("log"):
                reporter.finished()
        except KeyboardInterrupt:
            return SweepResult(finished=False, records=tuple(read_records(sweep.folder)))
        finally:
            reporter.stop()
        return SweepResult(finished=True, records=tuple(read_records(sweep.folder)))


def run_trials(sweep: Sweep, reporter: SweepReporter, *, share: float, tuner: Tuner = tune_trials.run_trials) -> None:
    """Run the trials that are left of the budget, and a failed baseline again.

    Args:
        sweep: whose trials.
        reporter: prints and logs each trial.
        share: cores that trials at the same time divide between them, if they ask for fewer; 0 on a cluster.
        tuner: runs the trials.

    Raises:
        UserError: the eager baseline failed, lacks a metric that is asked for, or has not learned.
    """
    from paretune.distributed import ray_session as session
    from paretune.distributed.tune_searcher import NoPausedTrials, StudySearcher

    for record in read_records(sweep.folder):
        if record.origin == "baseline" and record.state == "failed":
            reporter.say(f"trial {record.number} is a baseline and failed; it is run again")
            forget_record(sweep.folder, record.number)
    job = sweep.job
    records = [replace(one, recipe=present_names(one.recipe)) for one in read_records(sweep.folder)]
    if share:  # all trials run here, so that this machine can be asked
        records = [with_runtime_checked(record, job) for record in records]
    left = job.search.trials - len(records)
    budget = SearchBudget(sweep, records)
    if left <= 0 or (sweep.ended is not None and budget.may_end):
        complete_study(sweep, records, reporter.say)
        return
    reporter.limit = budget.seconds_left
    study = opened_study(sweep, records, reporter.say)

    def on_record(record: Record) -> None:
        budget.add(record)
        reporter.trial_done(record)

    halving = isinstance(job.search.scheduler, HalvingScheduler)
    rungs = Rungs(sweep.folder, job) if halving else NoPausedTrials()
    ended = functools.partial(record_of, sweep.folder, retries=job.search.retries, say=reporter.say)
    searcher = StudySearcher(
        study, ended, on_record, lambda: baseline_failure(sweep) or budget.spent(), count=left, rungs=rungs
    )
    resources = job.resources.by_ray_name()
    if job.training.by_ray:
        resources = {**job.resources.custom, **session.NEXT_TO_NOTHING}  # the workers of its fine-tuning need the rest
    else:
        resources["CPU"] = max(resources["CPU"], share // job.search.concurrent)
    with closing(study):
        tuner(
            functools.partial(run_in_worker, str(sweep.runs.resolve()), sweep.name),
            searcher,
            concurrent=job.search.concurrent,
            resources=resources,
            labels=job.resources.labels,
            folder=sweep.folder,
            nested=job.training.by_ray,
            scheduler=job.search.scheduler.build(),
        )
    if reason := baseline_failure(sweep):
        raise UserError(reason)
    if searcher.exhausted:
        sweep.mark_exhausted()
    if searcher.ended is not None:
        sweep.mark_ended(searcher.ended)
        reporter.say(f"the search ends after {counted(len(read_records(sweep.folder)), 'trial')}: {searcher.ended}")
