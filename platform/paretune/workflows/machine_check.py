"""What a machine or a cluster cannot do of what a job asks: refused before anything is made, noted by ``check``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.metrics import metric_of
from paretune.core.target import Target
from paretune.distributed import ray_session as session
from paretune.distributed.train_workers import room_on
from paretune.profiling.energy import measure as energy
from paretune.runtimes.eager import Eager
from paretune.storage.trial_record import RUNTIME_INSTALLED_SINCE, RUNTIME_UNAVAILABLE, Record
from paretune.system.cpu_cores import threads_unsupported_reason
from paretune.training.settings import Training

HERE = "this machine"


def gpus_of_torch() -> int:
    """Return how many GPUs torch finds; it is imported."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpus_of_driver() -> int:
    """Return how many GPUs the driver tells and CUDA_VISIBLE_DEVICES leaves; torch is not imported."""
    try:
        import pynvml
    except ImportError:
        return 0
    try:
        pynvml.nvmlInit()
        try:
            count = int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:  # no driver
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return count
    named = [word.strip() for word in visible.split(",")]
    end = next((place for place, word in enumerate(named) if word in ("", "-1", "NoDevFiles")), len(named))
    return min(count, end)


def sweep_problems(
    job: Job, gpus: Callable[[], int], device_problem: Callable[[Target], str | None] | None = None
) -> list[str]:
    """Return what this machine cannot do of a job, if all of its sweep runs here, each after the field that asks.

    Args:
        job: that asks.
        gpus: counts this machine's; called only where the job asks for some.
        device_problem: tells why the target's device is not here; None asks ``gpus``.
    """
    where, found = f"targets.{job.target_name}", list[str]()
    if problem := threads_unsupported_reason(job.target.threads):
        found.append(f"{where}.threads: {problem}")
    ask = device_problem or (lambda target: _no_gpu(gpus) if target.device == "cuda" else None)
    if problem := ask(job.target):
        found.append(f"{where}.device: {problem}")
    for place, metric in job.asked:
        if metric_of(metric).available == "energy" and (problem := energy.unsupported_reason(job.target)):
            found.append(f"{place}.{metric}: not known on {HERE}: {problem}")
    return [*found, *training_problems(job.training, gpus), *_resource_problems(job, gpus)]


def training_problems(settings: Training, gpus: Callable[[], int]) -> list[str]:
    """Return what this machine cannot do of a training."""
    if settings.by_ray:
        has = {"CPU": float(_cores()), "GPU": float(0 if settings.device == "cpu" else gpus())}
        try:
            room_on(settings, [has], where=HERE)
        except UserError as error:
            return [str(error)]
    elif settings.device == "cuda" and (problem := _no_gpu(gpus)):
        return [f"training.device: {problem}; write `device: cpu` or `device: auto`"]
    return []


def _no_gpu(gpus: Callable[[], int]) -> str | None:
    return None if gpus() else f"cuda is asked for, and {HERE} has no GPU"


def _resource_problems(job: Job, gpus: Callable[[], int]) -> list[str]:
    """Return what a trial asks for that a Ray on this machine alone does not have."""
    asked = job.resources.by_ray_name()
    has = {"CPU": float(_cores()), "GPU": float(gpus()) if "GPU" in asked else 0.0}
    lacking = {name: amount for name, amount in asked.items() if has.get(name, 0) < amount}
    told = ", ".join(f"{name} {amount:g} (there: {has.get(name, 0):g})" for name, amount in lacking.items())
    return [f"resources: a trial asks for more than {HERE} has: {told}"] if lacking else []


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def refuse_unfit_machine(job: Job) -> None:
    """Refuse a job that this machine, on which all of its sweep will run, cannot carry out.

    Raises:
        UserError: it has fewer cores than target, workers or trials ask for, no such device, or nothing that tells a
            metric that is asked for.
    """
    if problems := sweep_problems(job, gpus_of_torch, Eager().unsupported_reason):
        raise UserError("\n".join(problems))


def refuse_unfit_for_training(job: Job) -> None:
    """Refuse a job whose training this machine cannot carry out.

    Raises:
        UserError: it has no such device, or fewer cores than the workers ask for.
    """
    if problems := training_problems(job.training, gpus_of_torch):
        raise UserError("\n".join(problems))


def refuse_impossible(job: Job, *, elsewhere: bool) -> None:
    """Refuse what no node of the Ray session can ever give.

    Args:
        job: that asks for it.
        elsewhere: the session is a cluster's, on whose nodes also one worker trains.

    Raises:
        UserError: says what is wanted and what the nodes have.
    """
    refuse_small_cluster(job, session.nodes(), elsewhere=elsewhere)


def refuse_small_cluster(job: Job, nodes: Sequence[Mapping[str, float]], *, elsewhere: bool = True) -> None:
    """Refuse a job that asks for what no node, or not all of them together, can ever give.

    Args:
        job: that asks.
        nodes: what each has, by Ray's names.
        elsewhere: also a training by one worker is a task of the nodes'.

    Raises:
        UserError: says what is wanted and what the nodes have.
    """
    session.refuse_unless_fits(job.resources.by_ray_name(), "a trial", nodes)
    training = job.training
    if training.by_ray or (elsewhere and (job.baseline is None or training.device == "cuda")):
        room_on(training, nodes)


def with_runtime_checked(record: Record, target: Target) -> Record:
    """Return a record that speaks no more against its runtime, where it runs here now: it has been installed since."""
    if not record.runtime_unavailable or Recipe.model_validate(record.recipe).runtime.unsupported_reason(target):
        return record
    return replace(record, facts={**record.facts, RUNTIME_UNAVAILABLE: False, RUNTIME_INSTALLED_SINCE: True})
