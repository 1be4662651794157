"""The training loop on Ray Train workers: one, or several in data parallel, with a checkpoint every epoch."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.data.base import Dataset
from paretune.detectors.base import Detector
from paretune.errors import UserError
from paretune.structures import InputSize
from paretune.training.settings import Training

HISTORY = "training.json"
"""What every epoch did: a list of records, beside the trained network."""
FAILURES = 2
"""Times a training whose worker dies is resumed from its last epoch."""
POLL_S = 0.2
_ENVIRONMENT = {
    # Ray asks its workers every 2 s by default whether they are done
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(POLL_S),
    # paths in a job are relative to where the user stands, not to a folder of Ray's
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}


@dataclass(frozen=True)
class _Order:
    """All that a worker is told; plain data, it opens the dataset by itself."""

    detector: Detector
    dataset: Dataset
    size: InputSize
    settings: Training
    cache: Path
    folder: Path
    """Where the network goes."""
    work: Path
    """Where the training keeps what it needs to be resumed."""
    threads: int


def train_with_ray(
    *,
    detector: Detector,
    dataset: Dataset,
    cache: Path,
    size: InputSize,
    settings: Training,
    folder: Path,
    workers: int = 1,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Train a detector from fresh weights on Ray workers; ``ray.init`` has been called.

    A training that was interrupted goes on after its last epoch; a finished one is not repeated. On
    several machines ``folder`` and ``cache`` must be the same place on all of them.

    Args:
        detector: what is trained.
        dataset: opened in each worker; its ``train`` split is used.
        cache: folder for what the dataset generates.
        size: of the network's input.
        settings: how it is trained; batch size per worker.
        folder: receives the network (weights and structure) and ``training.json``.
        workers: processes that train together; each has a device of its own.
        progress: called with a line after each epoch, in this thread.

    Returns:
        The folder.

    Raises:
        UserError: the cluster cannot give what is asked for, or a worker found a mistake of the user's.
        FloatingPointError: the loss became infinite or not a number.
        RuntimeError: workers failed more often than is put up with.
    """
    from paretune.detectors.structure import STRUCTURE

    folder = folder.absolute()
    if (folder / STRUCTURE).is_file():
        progress("the baseline is trained already")
        return folder
    work = folder / "unfinished"
    work.mkdir(parents=True, exist_ok=True)
    use_gpu = _use_gpu(settings, workers)
    cpus = _cpus(settings, workers)
    order = _Order(detector, dataset, size, settings, cache.absolute(), folder, work, cpus)
    result = _fit(order, workers, cpus, use_gpu, progress)
    mistake = result.return_value
    if mistake is not None:
        raise {"UserError": UserError, "FloatingPointError": FloatingPointError}[mistake[0]](mistake[1])
    if not (folder / STRUCTURE).is_file():
        raise RuntimeError(f"the workers finished, but {folder} holds no network: is it shared by all machines?")
    shutil.rmtree(work, ignore_errors=True)
    return folder


def _fit(order: _Order, workers: int, cpus: int, use_gpu: bool, progress: Callable[[str], None]) -> Any:
    """Run the workers, and tell of each epoch meanwhile.

    Ray's ``fit`` waits in a thread: in the main thread it would put its own handler for Ctrl-C in
    place of Python's, and leave it there.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _work,
        train_loop_config={"order": order},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=_share(cpus, use_gpu)),
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

    told = len(_epochs(order.work))
    with _environment():
        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            lines = _epochs(order.work)
            for entry in lines[told:]:
                progress(entry["line"])
            told = len(lines)
    if "error" in outcome:
        raise RuntimeError(f"training failed: {outcome['error']}") from outcome["error"]
    return outcome["result"]


def _work(config: dict[str, Any]) -> tuple[str, str] | None:
    """Train on one worker; runs in a process of Ray's.

    Returns:
        None, or the class and text of a mistake that another try would only repeat.
    """
    from ray import train

    context = train.get_context()
    try:
        _train(config["order"], context.get_world_rank(), context.get_world_size(), context.get_local_rank() == 0)
    except (UserError, FloatingPointError) as error:
        if context.get_world_size() > 1:
            raise  # the others wait for this one: only a failure of the worker ends them
        return type(error).__name__, str(error)
    return None


def _train(order: _Order, rank: int, world: int, leader: bool) -> None:
    import torch
    from ray.train.torch import get_device

    from paretune.detectors.structure import save_network
    from paretune.training.loop import Epoch, Options, train
    from paretune.training.state import load_state, save_state

    data = order.dataset.open(order.cache)
    device = str(get_device())
    torch.manual_seed(order.settings.seed)
    network = order.detector.initial(len(data.classes))

    def on_epoch(epoch: Epoch) -> None:
        if rank == 0:
            save_state(epoch.state, order.work)
            facts = {key: value for key, value in vars(epoch).items() if key != "state"}
            _append(order.work, {**facts, "line": str(epoch), "device": device, "workers": world})

    result = train(
        network,
        order.detector,
        data.splits["train"],
        order.size,
        # Ray has set OMP_NUM_THREADS to 1 whatever the worker was promised
        order.settings.model_copy(update={"threads": order.threads}),
        device=device,
        on_epoch=on_epoch,
        options=Options(resume=load_state(order.work), rank=rank, world=world, leader=leader),
    )
    if rank == 0:
        history = {entry["number"]: entry for entry in _epochs(order.work)}  # an epoch lost in a crash is there twice
        (order.folder / HISTORY).write_text(json.dumps([history[number] for number in sorted(history)], indent=1))
        save_network(result.network, order.folder)


def _append(work: Path, entry: dict[str, Any]) -> None:
    with (work / "epochs.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")


def _epochs(work: Path) -> list[dict[str, Any]]:
    """Return the epochs written so far; a line that is being written does not count yet."""
    path = work / "epochs.jsonl"
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def _use_gpu(settings: Training, workers: int) -> bool:
    """Tell whether every worker gets a GPU.

    Raises:
        UserError: GPUs were asked for and the cluster has too few.
    """
    import ray

    there = int(ray.cluster_resources().get("GPU", 0))
    if settings.device == "cuda" and there < workers:
        raise UserError(f"training.device is cuda, but the Ray cluster has {there} GPUs for {workers} workers")
    return settings.device != "cpu" and there >= workers


def _cpus(settings: Training, workers: int) -> int:
    """Return the CPU cores, and threads, of each worker.

    Raises:
        UserError: no machine has that many; Ray would wait for one for ever.
    """
    import ray

    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = settings.threads or max(1, max(cores) // workers)
    if sum(count // cpus for count in cores) < workers:
        wish = f"{workers} workers with {cpus} CPU cores each"
        raise UserError(f"training: the Ray cluster (cores per machine: {cores}) has no room for {wish}")
    return cpus


def _share(cpus: int, use_gpu: bool) -> dict[str, float]:
    return {"CPU": cpus, **({"GPU": 1} if use_gpu else {})}


@contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray Train reads from the driver's environment, unless the user has, and put it back."""
    missing = {key: value for key, value in _ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(missing)
    try:
        yield
    finally:
        for key in missing:
            os.environ.pop(key, None)
