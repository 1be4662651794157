"""Checks that a machine or cluster can carry out a job, before anything is made."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.devices import device_kind
from paretune.core.errors import UserError
from paretune.core.metrics import metric_of
from paretune.core.target import Target
from paretune.distributed import ray_session as session
from paretune.distributed.node_tasks import ClusterNode, NodeRequest, cluster_nodes, node_missing_reason
from paretune.distributed.train_workers import room_on
from paretune.profiling.energy import measure as energy
from paretune.runtimes.eager import Eager
from paretune.storage.trial_record import RUNTIME_INSTALLED_SINCE, RUNTIME_UNAVAILABLE, Record
from paretune.system.cpu_cores import threads_unsupported_reason
from paretune.training.settings import Training

HERE = "this machine"


def gpus_of_torch() -> int:
    """Return the number of GPUs that torch finds."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def gpus_of_driver() -> int:
    """Return the number of the driver's GPUs that CUDA_VISIBLE_DEVICES leaves, without importing torch."""
    return device_kind("cuda").count() or 0


def sweep_problems(
    job: Job, gpus: Callable[[], int], device_problem: Callable[[Target], str | None] | None = None
) -> list[str]:
    """Return why this machine cannot run a job's sweep, a message for each field.

    Args:
        job: to check.
        gpus: returns the number of this machine's GPUs; called only if the job needs some.
        device_problem: returns why the target's device is missing; None asks ``gpus``.
    """
    found = list[str]()
    ask = device_problem or (lambda target: _missing(target.device, gpus))
    for name, target in job.targets.items():
        if target.elsewhere:  # its node is asked once there is a cluster
            continue
        where = f"targets.{name}"
        if problem := threads_unsupported_reason(target.threads):
            found.append(f"{where}.threads: {problem}")
        if problem := ask(target):
            found.append(f"{where}.device: {problem}")
        for place, metric in job.asked:
            if metric_of(metric).available == "energy" and (problem := energy.unsupported_reason(target)):
                found.append(f"{place}.{metric}: not known on {HERE}: {problem}")
    return [*found, *training_problems(job.training, gpus), *_resource_problems(job, gpus)]


def training_problems(settings: Training, gpus: Callable[[], int]) -> list[str]:
    """Return why this machine cannot run a training."""
    if settings.by_ray:
        has = {"CPU": float(_cores()), "GPU": float(0 if settings.device == "cpu" else gpus())}
        try:
            room_on(settings, [has], where=HERE)
        except UserError as error:
            return [str(error)]
    elif settings.device == "cuda" and (problem := _no_gpu(gpus)):
        return [f"training.device: {problem}; write `device: cpu` or `device: auto`"]
    return []


def _missing(device: str, gpus: Callable[[], int]) -> str | None:
    """Return that there is no such device here, or None if there is one or it is not known."""
    if device == "cuda":
        return _no_gpu(gpus)
    return f"{device} is asked for, and {HERE} has none" if device_kind(device).count() == 0 else None


def _no_gpu(gpus: Callable[[], int]) -> str | None:
    return None if gpus() else f"cuda is asked for, and {HERE} has no GPU"


def _resource_problems(job: Job, gpus: Callable[[], int]) -> list[str]:
    """Return a message if a trial needs resources that this machine lacks."""
    asked = job.resources.by_ray_name()
    has = {"CPU": float(_cores()), "GPU": float(gpus()) if "GPU" in asked else 0.0}
    lacking = {name: amount for name, amount in asked.items() if has.get(name, 0) < amount}
    told = ", ".join(f"{name} {amount:g} (there: {has.get(name, 0):g})" for name, amount in lacking.items())
    return [f"resources: a trial asks for more than {HERE} has: {told}"] if lacking else []


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def refuse_unfit_machine(job: Job) -> None:
    """Raise an error if this machine cannot run a job's sweep.

    Raises:
        UserError: there are too few cores for target, workers or trials, the device is missing, or a metric cannot be
            measured.
    """
    if problems := sweep_problems(job, gpus_of_torch, Eager().unsupported_reason):
        raise UserError("\n".join(problems))


def refuse_unfit_for_training(job: Job) -> None:
    """Raise an error if this machine cannot run a job's training.

    Raises:
        UserError: the device is missing, or there are too few cores for the workers.
    """
    if problems := training_problems(job.training, gpus_of_torch):
        raise UserError("\n".join(problems))


def refuse_impossible(job: Job, *, elsewhere: bool) -> None:
    """Raise an error if the nodes of the Ray session lack resources for a job.

    Args:
        job: to check.
        elsewhere: whether the session is a cluster's, where one worker trains on a node too.

    Raises:
        UserError: names the resources of the job and of the nodes.
    """
    placed = job.resources.labels or any(target.elsewhere for target in job.targets.values())
    nodes = cluster_nodes() if placed else []
    own = trial_nodes(job, nodes) if job.resources.labels else []
    refuse_small_cluster(job, [node.resources for node in own] or session.nodes(), elsewhere=elsewhere)
    refuse_without_nodes(job, nodes)


def refuse_unfit_cluster(job: Job, nodes: Sequence[ClusterNode]) -> None:
    """Raise an error if the nodes of a cluster lack resources for a job, or none can measure for one of its targets.

    Raises:
        UserError: names what the job asks for and what the nodes have.
    """
    refuse_small_cluster(job, [node.resources for node in trial_nodes(job, nodes)])
    refuse_without_nodes(job, nodes)


def trial_nodes(job: Job, nodes: Sequence[ClusterNode]) -> list[ClusterNode]:
    """Return the nodes with the labels of a job's trials.

    Raises:
        UserError: there is none.
    """
    request = NodeRequest(job.resources.labels)
    if reason := node_missing_reason(request, nodes):
        raise UserError(f"resources.labels: {reason}")
    return [node for node in nodes if request.fits(node)]


def refuse_without_nodes(job: Job, nodes: Sequence[ClusterNode]) -> None:
    """Raise an error if no node can measure for one of a job's targets.

    Args:
        job: to check.
        nodes: of the Ray session.

    Raises:
        UserError: names each such target, what it asks for, and what the nodes offer.
    """
    missing = {
        name: node_missing_reason(NodeRequest(target.labels, target.resources), nodes)
        for name, target in job.targets.items()
        if target.elsewhere
    }
    if lines := [f"targets.{name}: {reason}" for name, reason in missing.items() if reason]:
        raise UserError("\n".join(lines))


def refuse_small_cluster(job: Job, nodes: Sequence[Mapping[str, float]], *, elsewhere: bool = True) -> None:
    """Raise an error if some nodes lack resources for a job.

    Args:
        job: to check.
        nodes: resources of each, by Ray's names.
        elsewhere: whether one worker trains on a node too.

    Raises:
        UserError: names the resources of the job and of the nodes.
    """
    session.refuse_unless_fits(job.resources.by_ray_name(), "a trial", nodes)
    training = job.training
    if training.by_ray or (elsewhere and (job.baseline is None or training.device == "cuda")):
        room_on(training, nodes)


def with_runtime_checked(record: Record, job: Job) -> Record:
    """Return a record, marked if its runtime was missing and has been installed since for one of the job's targets."""
    if not record.runtime_unavailable:
        return record
    runtime = Recipe.model_validate(record.recipe).runtime
    if all(runtime.unsupported_reason(target) for target in job.targets.values()):
        return record
    return replace(record, facts={**record.facts, RUNTIME_UNAVAILABLE: False, RUNTIME_INSTALLED_SINCE: True})
