"""A training in this process, as the only worker or as one of several."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError
from paretune.data.left_out import record_of, refuse_gaps
from paretune.storage.atomic_files import write_text
from paretune.training.extras import train_with_extras
from paretune.training.history import HISTORY, KEPT, TrainingStep, _append, epochs_of, no_step
from paretune.training.initial_weights import initial_network, report_notes
from paretune.training.training_job import TrainingJob

if TYPE_CHECKING:
    from paretune.core.types import Data


def run_worker(
    job: TrainingJob,
    *,
    device: str,
    threads: int,
    rank: int = 0,
    world: int = 1,
    after: Callable[[dict[str, Any]], None] = lambda _: None,
    say: Callable[[str], None] | None = None,
    on_step: Callable[[TrainingStep], None] = no_step,
) -> None:
    """Run or resume a training in this process; the first worker saves states, history and network.

    Args:
        job: the training.
        device: torch device.
        threads: number of torch's threads; 0 leaves it unchanged.
        rank: number of this worker.
        world: number of workers.
        after: called by the first worker with the facts of each epoch after they are on disk.
        say: called by the first worker with notes on the initial weights; without it, they precede the line of the
            first epoch.
        on_step: called by every worker after each step.

    Raises:
        FloatingPointError: the training diverged.
        UserError: the data or the settings are wrong.
    """
    import torch

    from paretune.networks.network_files import save_network
    from paretune.training.checkpoint import RemoteCheckpoint, load_state, save_state
    from paretune.training.loop import Epoch, Options

    settings = job.settings
    storage = None if settings.storage is None or rank else RemoteCheckpoint(settings.storage, job.key)
    if storage is not None:
        storage.get(job.work, KEPT)
    if world > 1:
        torch.distributed.barrier()  # all resume from the same state
    data = _opened(job)
    network, notes = initial_network(job.detector, data, job.size, settings, job.start)
    before = [] if rank else report_notes(notes, say)

    def on_epoch(epoch: Epoch) -> None:
        if rank == 0:
            line = "\n".join([*before, str(epoch)])
            before.clear()
            entry = {**epoch.facts(), "line": line, "device": device, "workers": world}
            _append(job.work, entry)
            if epoch.number % settings.checkpoint_every == 0 or epoch.number == settings.epochs:
                save_state(epoch.state, job.work)
                if storage is not None:
                    storage.put(job.work, KEPT)
            after(entry)

    result = train_with_extras(
        network,
        job.detector,
        data,
        job.size,
        settings.model_copy(update={"threads": threads}),
        job.extras,
        device=device,
        on_epoch=on_epoch,
        options=Options(load_state(job.work), rank=rank, world=world, thresholds=job.thresholds, on_step=on_step),
    )
    if rank == 0:
        epochs = {entry["number"]: entry for entry in epochs_of(job.work)}  # after a crash one may be listed twice
        facts = {
            "detector": job.detector.named(),
            "input_size": str(job.size),
            "classes": list(data.classes),
            **record_of(data),
            "thresholds": {"detections": job.thresholds.detections},
            "notes": [*data.notes, *notes],
            "best_epoch": result.best,
            "epochs": [epochs[number] for number in sorted(epochs)],
        }
        write_text(job.folder / HISTORY, json.dumps(facts, indent=1))
        save_network(result.network, job.folder)
        if storage is not None:
            storage.clear()


def _opened(job: TrainingJob) -> Data:
    """Return the opened data; a training from the start refuses data with large gaps."""
    data = job.dataset.open(job.cache)
    if job.start is None and not epochs_of(job.work):
        refuse_gaps(data, job.dataset)
    return data


def train_here(
    job: TrainingJob,
    progress: Callable[[str], None] = lambda _: None,
    on_step: Callable[[TrainingStep], None] = no_step,
) -> Path:
    """Run a training in this process without Ray, and return its folder; an interrupted one is resumed.

    Returns:
        The folder of the training.

    Raises:
        FloatingPointError: the training diverged; the last state stays.
        UserError: the device does not exist, or the data are wrong.
    """
    from paretune.training.loop import pick_device

    if job.is_done():
        progress("trained already")
        return job.folder
    device = pick_device(job.settings.device)
    threads = job.settings.threads
    run_worker(
        job,
        device=device,
        threads=threads,
        after=lambda entry: progress(entry["line"]),
        say=progress,
        on_step=on_step,
    )
    shutil.rmtree(job.work, ignore_errors=True)
    return job.folder


@contextmanager
def divergence_as_user_error(job: TrainingJob) -> Iterator[None]:
    """Raise a UserError for a loss that is not finite, since the settings have to be changed.

    Raises:
        UserError: instead of FloatingPointError.
    """
    try:
        yield
    except FloatingPointError as error:
        kept = f"the last good state is kept in {job.work}" if job.work.is_dir() else "no epoch was finished"
        raise UserError(f"the training diverged: {error}; {kept}") from error
