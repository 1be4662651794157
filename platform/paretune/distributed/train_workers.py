"""Trainings on Ray Train workers, several together or one on any device of the cluster."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.distributed.node_tasks import NodeRequest, cluster_nodes
from paretune.storage.atomic_files import write_text
from paretune.training.history import TrainingStep, epochs_of, no_step
from paretune.training.settings import Training
from paretune.training.training_job import TrainingJob
from paretune.training.worker import run_worker

MISTAKE = "mistake.json"
"""File beside the training's state with a worker's error that another try would repeat."""
FAILURES = 2
"""Times that a training is resumed from its last saved state after a worker died."""
POLL_S = 0.2
_LABELS: ContextVar[dict[str, str] | None] = ContextVar("labels", default=None)
_ENVIRONMENT = {
    # Ray asks its workers every 2 s by default whether they are done
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(POLL_S),
    # what can never be given is refused before; what somebody else has now is waited for
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(7 * 24 * 3600),
    # paths in a job are relative to where the user stands, not to a folder of Ray's
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@contextmanager
def training_nodes(labels: Mapping[str, str]) -> Iterator[None]:
    """Have the workers of trainings inside the block run on nodes with these labels."""
    token = _LABELS.set(dict(labels))
    try:
        yield
    finally:
        _LABELS.reset(token)


def train_with_ray(
    order: TrainingJob,
    progress: Callable[[str], None] = lambda _: None,
    on_step: Callable[[TrainingStep], None] = no_step,
) -> Path:
    """Run a training on Ray workers, in a Ray session or in a trial of Tune's.

    An interrupted training is resumed from its last saved state; a finished one is not repeated.

    Args:
        order: the training, with ``training.workers`` workers, each on its own device.
        progress: called in this thread with a line after each epoch, and if GPUs stay idle.
        on_step: called in this thread after each epoch, as if it had one step: workers report no others.

    Returns:
        Folder of the training.

    Raises:
        UserError: the cluster lacks the resources, or a worker found a mistake of the user.
        FloatingPointError: the loss became infinite or not a number.
        RuntimeError: workers failed too often.
    """
    order = replace(
        order,
        folder=order.folder.absolute(),
        cache=order.cache.absolute(),
        start=None if order.start is None else order.start.absolute(),
    )
    if order.is_done():
        progress("trained already")
        return order.folder
    order.work.mkdir(parents=True, exist_ok=True)
    cpus, use_gpu = room_for(order.settings, progress)
    (order.work / MISTAKE).unlink(missing_ok=True)
    _fit(order, order.settings.workers, (cpus, use_gpu), progress, on_step)
    if (mistake := _mistake(order)) is not None:
        raise {"UserError": UserError, "FloatingPointError": FloatingPointError}[mistake[0]](mistake[1])
    if not order.is_done():
        raise RuntimeError(f"the workers finished, but {order.folder} holds no network: is it shared by all machines?")
    shutil.rmtree(order.work, ignore_errors=True)
    return order.folder


def _fit(
    order: TrainingJob,
    workers: int,
    room: tuple[int, bool],
    progress: Callable[[str], None],
    on_step: Callable[[TrainingStep], None],
) -> Any:
    """Run the workers, and report each epoch meanwhile.

    Ray's ``fit`` runs in a thread, because in the main thread it would replace Python's handler of Ctrl-C.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cpus, use_gpu = room
    trainer = TorchTrainer(
        _work,
        train_loop_config={"order": order, "threads": cpus},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=use_gpu,
            resources_per_worker=_share(cpus, use_gpu),
            label_selector=_LABELS.get() or None,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(order.work),
            failure_config=FailureConfig(max_failures=FAILURES, controller_failure_limit=1),
            logging_config=LoggingConfig(log_level="WARNING"),
        ),
    )
    outcome: dict[str, Any] = {}

    def fit() -> None:
        try:
            outcome["result"] = trainer.fit()
        except Exception as error:  # noqa: BLE001 - given on to the thread that waits
            outcome["error"] = error

    reported = len(epochs_of(order.work))
    with _environment():
        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        running = True
        while running:
            thread.join(POLL_S)
            running = thread.is_alive()  # asked before reading: telling takes seconds, in which the last epochs may end
            lines = epochs_of(order.work)
            for entry in lines[reported:]:
                progress(entry["line"])
                losses = sum(entry["losses"].values())
                on_step(TrainingStep(entry["number"], entry["epochs"], 1, 1, losses))
            reported = len(lines)
    if "error" in outcome:
        raise RuntimeError(f"training failed: {outcome['error']}") from outcome["error"]
    return outcome["result"]


def _work(config: dict[str, Any]) -> list[str] | None:
    """Train on one worker, in a process of Ray's.

    Returns:
        None, or class and text of an error that another try would repeat.
    """
    from ray import train
    from ray.train.torch import get_device

    order: TrainingJob = config["order"]
    context = train.get_context()
    if (mistake := _mistake(order)) is not None:  # a worker found it, and failed to end the others
        return mistake
    try:
        run_worker(
            order,
            device=str(get_device()),
            threads=config["threads"],  # Ray has set OMP_NUM_THREADS to 1 whatever the worker was promised
            rank=context.get_world_rank(),
            world=context.get_world_size(),
        )
    except (UserError, FloatingPointError) as error:
        kind = "UserError" if isinstance(error, UserError) else "FloatingPointError"
        write_text(order.work / MISTAKE, json.dumps([kind, str(error)]))
        if context.get_world_size() > 1:
            raise  # the others wait for this one: only a failure of the worker ends them
        return [kind, str(error)]
    return None


def _mistake(order: TrainingJob) -> list[str] | None:
    """Return class and text of the error in the file ``MISTAKE``; None if there is none."""
    path = order.work / MISTAKE
    return [str(word) for word in json.loads(path.read_text())] if path.is_file() else None


def room_for(settings: Training, tell: Callable[[str], None] = lambda _: None) -> tuple[int, bool]:
    """Return the CPU cores of each worker on the nodes of the session, and whether each gets a GPU.

    Args:
        settings: of the training.
        tell: called with a line if the cluster has too few GPUs for all workers.

    Raises:
        UserError: the nodes lack the resources.
    """
    own = NodeRequest(_LABELS.get() or {})
    return room_on(settings, [node.resources for node in cluster_nodes() if own.fits(node)], tell)


def room_on(
    settings: Training,
    nodes: Sequence[Mapping[str, float]],
    tell: Callable[[str], None] = lambda _: None,
    where: str = "the Ray cluster",
) -> tuple[int, bool]:
    """Return the CPU cores of each worker on some nodes, and whether each gets a GPU.

    Args:
        settings: of the training.
        nodes: resources of each, by Ray's names.
        tell: called with a line if the nodes have too few GPUs for all workers.
        where: name of the nodes in messages.

    Raises:
        UserError: the nodes lack the resources, for which Ray would wait for ever.
    """
    workers, machines = settings.workers, [_cores_and_gpus(node) for node in nodes]
    gpus = sum(count for _, count in machines)
    if settings.device == "cuda" and gpus < workers:
        raise UserError(f"training.device is cuda, but {where} has {gpus} GPUs for {workers} workers")
    if settings.device != "cpu" and gpus >= workers:
        return _cores_beside_gpus(settings, [(cores, count) for cores, count in machines if count], where), True
    if settings.device == "auto" and gpus:
        tell(f"training.device is auto: {where} has {gpus} GPUs for {workers} workers, all train on CPU cores")
    cores = [count for count, _ in machines]
    cpus = settings.threads or max(1, max(cores, default=0) // workers)
    if sum(count // cpus for count in cores) < workers:
        wish = f"{workers} workers with {cpus} CPU cores each"
        raise UserError(f"training: {where} (cores per machine: {cores}) has no room for {wish}")
    return cpus, False


def _cores_beside_gpus(settings: Training, machines: Sequence[tuple[int, int]], where: str) -> int:
    """Return the CPU cores of each worker with a GPU: the most that all workers can have on machines with GPUs.

    Raises:
        UserError: the workers do not fit with any number of cores, or with the requested one.
    """

    def room(cpus: int) -> int:
        return sum(min(cores // cpus, gpus) for cores, gpus in machines)

    most = max(cores for cores, _ in machines)
    fitting = (count for count in range(most, 0, -1) if room(count) >= settings.workers)
    cpus = settings.threads or next(fitting, 1)
    if room(cpus) < settings.workers:
        wish = f"{settings.workers} workers with {cpus} CPU cores and a GPU each"
        has = ", ".join(f"{cores} and {gpus}" for cores, gpus in machines)
        raise UserError(f"training: {where} (cores and GPUs per machine with GPUs: {has}) has no room for {wish}")
    return cpus


def _cores_and_gpus(resources: Mapping[str, float]) -> tuple[int, int]:
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))


def _share(cpus: int, use_gpu: bool) -> dict[str, float]:
    return {"CPU": cpus, **({"GPU": 1} if use_gpu else {})}


@contextmanager
def _environment() -> Iterator[None]:
    """Set Ray Train's environment variables during the block, except those that the user has set."""
    missing = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for key in missing:
            os.environ.pop(key, None)
