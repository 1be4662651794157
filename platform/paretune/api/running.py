"""Functions that run something: a check, a training, a sweep, one recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from paretune.api.front import Front
from paretune.api.inputs import (
    JobSource,
    OnStep,
    Tell,
    job_document,
    missing_as_user_error,
    name_of,
    plan_of,
    told,
)
from paretune.config.output_folder import DEFAULT

if TYPE_CHECKING:
    from paretune.config.plan import Plan
    from paretune.results.advice_outcomes import AdvicePrediction
    from paretune.results.sweep_folder import Sweep
    from paretune.workflows.sweep_reporter import SweepReporter
    from paretune.workflows.train import TrainingPlace


Reporting: TypeAlias = "Callable[[Sweep], SweepReporter]"
"""Makes the reporter of a sweep."""


class Stopped(KeyboardInterrupt):
    """Ctrl-C stopped a training or a sweep; what is finished is kept, and the text tells how to go on."""

    def __init__(self, text: str, sweep: Sweep | None = None) -> None:
        super().__init__(text)
        self.sweep = sweep


@dataclass(frozen=True)
class Training:
    """A finished training: its folder and its figures."""

    place: TrainingPlace
    facts: Mapping[str, Any]
    """Contents of ``training.json``: detector, classes, epochs, metrics and their reasons by split."""

    @property
    def folder(self) -> Path:
        """Return the folder of the network; a job's ``baseline``, `optimize` and `paretune.steps` take it."""
        return self.place.folder

    @property
    def artefact(self) -> Path:
        """Return the folder of the trained network as an artefact of runtime eager."""
        return self.folder / "artefact"

    @property
    def metrics(self) -> Mapping[str, Mapping[str, float | None]]:
        """Return split → metric → value; None is unknown."""
        return dict(self.facts["metrics"])


@missing_as_user_error
def check(*jobs: JobSource, set: Mapping[str, Any] | None = None) -> list[str]:  # noqa: A002 - as the option --set
    """Find every mistake in jobs and search spaces without running them.

    Args:
        jobs: files, plain data, or `Job` objects.
        set: dotted place → value, set in each job before the check, such as ``{"training.epochs": 40}``.

    Returns:
        A line for each job or space.

    Raises:
        UserError: every mistake of every job, with file and line.

    Example:
        >>> paretune.check("jobs/voc.yaml", set={"dataset.voc.root": "/data/BCCD"})
    """
    from paretune.workflows.check import check_files

    return check_files([job_document(job) for job in jobs], set).splitlines()


@missing_as_user_error
def train(
    job: JobSource,
    name: str | None = None,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the option --set
    resume: bool = False,
    test: bool = False,
    progress: bool = False,
    tell: Tell | None = None,
    on_step: OnStep | None = None,
) -> Training:
    """Train the detector of a job, and nothing more.

    Args:
        job: its file, plain data, or a `Job`.
        name: of the training; None takes the name of the job's file.
        set: dotted place → value, set in the job.
        resume: whether to go on with a training that was stopped or killed.
        test: whether to evaluate the trained network on the split ``test`` too.
        progress: whether to print a line after each epoch.
        tell: function that gets these lines instead.
        on_step: function that is called after each step of the training.

    Raises:
        UserError: a mistake in the job or the data, or the name is taken.
        Stopped: Ctrl-C; finished epochs are kept.

    Example:
        >>> training = paretune.train("jobs/quickstart.yaml", "first", progress=True)
        >>> training.metrics["val"]["map"]
    """
    from paretune.training.history import no_step
    from paretune.workflows.machine_check import refuse_unfit_for_training
    from paretune.workflows.train import open_place, run_training

    plan = plan_of(job, set)
    refuse_unfit_for_training(plan.job)
    place, chosen = open_place(plan, name_of(job, name), resume=resume, test=test)
    try:
        facts = run_training(
            place, chosen, test=test, new=not resume, progress=told(progress, tell), on_step=on_step or no_step
        )
    except KeyboardInterrupt as stop:
        raise Stopped(f"training {place.name}: resume=True goes on") from stop
    return Training(place, facts)


@missing_as_user_error
def sweep(
    job: JobSource,
    name: str | None = None,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the option --set
    address: str | None = None,
    progress: bool = False,
    tell: Tell | None = None,
) -> Front:
    """Train, compress, evaluate and measure: from a job to its front.

    Args:
        job: its file, plain data (``space`` may hold the search space itself), or a `Job`.
        name: of the sweep; None takes the name of the job's file.
        set: dotted place → value, set in the job, such as ``{"search.trials": 12}``.
        address: of a Ray cluster to join; None starts a private Ray on this machine.
        progress: whether to print a line after each trial.
        tell: function that gets these lines instead.

    Raises:
        UserError: a mistake in the job or the data, or the name is taken.
        Stopped: Ctrl-C; `resume` goes on.

    Example:
        >>> front = paretune.sweep("jobs/quickstart.yaml", "first", progress=True)
        >>> front.best
    """
    plan = plan_of(job, set)
    return Front(begin_sweep(plan, name_of(job, name), telling(told(progress, tell)), address=address))


def begin_sweep(
    plan: Plan,
    name: str,
    reporter: Reporting,
    promises: Sequence[AdvicePrediction] = (),
    *,
    address: str | None = None,
) -> Sweep:
    """Make the folder of a new sweep and run it to its end.

    Args:
        plan: job and space.
        name: of the sweep.
        reporter: makes what prints and logs the sweep.
        promises: predictions for recipes of advice among its first ones.
        address: of a Ray cluster to join.

    Raises:
        UserError: the name is taken, this machine lacks what the job needs, or a mistake in the data.
        Stopped: Ctrl-C.
    """
    from paretune.results.sweep_folder import new_sweep
    from paretune.workflows.machine_check import refuse_unfit_machine

    if address is None:
        refuse_unfit_machine(plan.job)
    return finish_sweep(new_sweep(plan, name, promises), reporter, address=address, new=True)


def finish_sweep(
    sweep: Sweep,
    reporter: Reporting,
    *,
    address: str | None = None,
    new: bool = False,
    accept_changes: bool = False,
) -> Sweep:
    """Run the rest of a sweep; the arguments are those of `run_sweep` and `begin_sweep`.

    Raises:
        UserError: as `run_sweep`.
        Stopped: Ctrl-C.
    """
    from paretune.workflows.sweep import run_sweep

    made = reporter(sweep)
    if not run_sweep(sweep, address=address, new=new, accept_changes=accept_changes, reporter=made).finished:
        raise Stopped(sweep.command("resume"), sweep)
    return sweep


def telling(tell: Tell) -> Reporting:
    """Return what makes the reporter of a sweep that gives its lines to a function, and prints nothing."""
    from paretune.workflows.sweep_reporter import SweepReporter

    class Telling(SweepReporter):
        def say(self, text: str) -> None:
            tell(text)

        def finished(self) -> None:
            self._log.finish()

    return Telling


@missing_as_user_error
def resume(  # noqa: PLR0913 - the options of the command
    name: str,
    runs: str | Path = DEFAULT,
    *,
    trials: int | None = None,
    hours: float | None = None,
    device_hours: float | None = None,
    concurrent: int | None = None,
    allow_unlearned: bool | None = None,
    accept_changes: bool = False,
    address: str | None = None,
    progress: bool = False,
    tell: Tell | None = None,
) -> Front:
    """Go on with a sweep that was stopped or killed, or extend a finished one.

    Args:
        name: of the sweep.
        runs: output folder.
        trials: trials in all, also where it is finished.
        hours: hours of searching in all.
        device_hours: hours of all trials in all.
        concurrent: trials at the same time from now on.
        allow_unlearned: whether to search although the trained network has not learned.
        accept_changes: whether to go on although data, versions or machine have changed since.
        address: of a Ray cluster to join.
        progress: whether to print a line after each trial.
        tell: function that gets these lines instead.

    Raises:
        UserError: there is no such sweep, or it has changed.
        Stopped: Ctrl-C.

    Example:
        >>> front = paretune.resume("first", trials=40)
    """
    limits = {"trials": trials, "hours": hours, "device_hours": device_hours, "concurrent": concurrent}
    sweep = changed_sweep(Path(runs), name, address=address, allow_unlearned=allow_unlearned, **limits)
    reporter = telling(told(progress, tell))
    return Front(finish_sweep(sweep, reporter, address=address, accept_changes=accept_changes))


def changed_sweep(runs: Path, name: str, *, address: str | None = None, **limits: Any) -> Sweep:
    """Return a sweep on disk, with other limits of its search written into it where they are not None.

    Raises:
        UserError: there is no such sweep, a limit is not valid, or this machine lacks what its job needs.
    """
    from paretune.results.sweep_changes import change_search
    from paretune.results.sweep_folder import find_sweep
    from paretune.workflows.machine_check import refuse_unfit_machine
    from paretune.workflows.sweep_identity import refuse_without_cluster

    sweep = find_sweep(runs, name)
    if address is None and not (sweep.finished and all(value is None for value in limits.values())):
        refuse_without_cluster(sweep)
    if any(value is not None for value in limits.values()):
        sweep = change_search(sweep, **limits)
    if not sweep.finished and address is None:
        refuse_unfit_machine(sweep.job)
    return sweep
