"""Carries out a training in this process, as the only worker or as one of several."""

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
from paretune.training.history import HISTORY, KEPT, _append, epochs_of
from paretune.training.initial_weights import initial_network, report_notes
from paretune.training.training_job import TrainingJob, _silent

if TYPE_CHECKING:
    from paretune.core.types import Data


def run_worker(
    order: TrainingJob,
    *,
    device: str,
    threads: int,
    rank: int = 0,
    world: int = 1,
    after: Callable[[dict[str, Any]], None] = lambda _: None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Train, or go on with it, in this process; the first worker saves states, history and network.

    Args:
        order: what.
        device: torch device.
        threads: of torch; 0 leaves them as they are.
        rank: which worker this is,
        world: of how many.
        after: called by the first worker with the facts of each epoch, when it is on disk.
        say: told by the first worker what is to be known of the weights that the training begins with; without it, it
            stands before the line of the first epoch.

    Raises:
        FloatingPointError: the training diverged.
        UserError: a mistake of the user's, in the data or the settings.
    """
    import torch

    from paretune.networks.network_files import save_network
    from paretune.training.checkpoint import RemoteCheckpoint, load_state, save_state
    from paretune.training.loop import Epoch, Options

    settings = order.settings
    storage = None if settings.storage is None or rank else RemoteCheckpoint(settings.storage, order.key)
    if storage is not None:
        storage.get(order.work, KEPT)
    if world > 1:
        torch.distributed.barrier()  # all go on from the same state
    data = _opened(order)
    network, notes = initial_network(order.detector, data, order.size, settings, order.start)
    before = [] if rank else report_notes(notes, say)

    def on_epoch(epoch: Epoch) -> None:
        if rank == 0:
            line = "\n".join([*before, str(epoch)])
            before.clear()
            entry = {**epoch.facts(), "line": line, "device": device, "workers": world}
            _append(order.work, entry)
            if epoch.number % settings.checkpoint_every == 0 or epoch.number == settings.epochs:
                save_state(epoch.state, order.work)
                if storage is not None:
                    storage.put(order.work, KEPT)
            after(entry)

    result = train_with_extras(
        network,
        order.detector,
        data,
        order.size,
        settings.model_copy(update={"threads": threads}),
        order.how,
        device=device,
        on_epoch=on_epoch,
        options=Options(load_state(order.work), rank=rank, world=world, thresholds=order.thresholds),
    )
    if rank == 0:
        epochs = {entry["number"]: entry for entry in epochs_of(order.work)}  # one lost in a crash is there twice
        facts = {
            "detector": order.detector.named(),
            "input_size": str(order.size),
            "classes": list(data.classes),
            **record_of(data),
            "thresholds": {"detections": order.thresholds.detections},
            "notes": [*data.notes, *notes],
            "best_epoch": result.best,
            "epochs": [epochs[number] for number in sorted(epochs)],
        }
        write_text(order.folder / HISTORY, json.dumps(facts, indent=1))
        save_network(result.network, order.folder)
        if storage is not None:
            storage.clear()


def _opened(order: TrainingJob) -> Data:
    """Open the data; a training that begins anew refuses what lacks a large part of itself."""
    data = order.dataset.open(order.cache)
    if order.start is None and not epochs_of(order.work):
        refuse_gaps(data, order.dataset)
    return data


def train_here(order: TrainingJob, progress: Callable[[str], None] = _silent) -> Path:
    """Carry out an order in this process, without Ray; an interrupted training goes on after its last epoch.

    Returns:
        The folder.

    Raises:
        FloatingPointError: the training diverged; the last state stays.
        UserError: there is no such device, or a mistake in the data.
    """
    from paretune.training.loop import pick_device

    if order.is_done():
        progress("trained already")
        return order.folder
    device = pick_device(order.settings.device)
    threads = order.settings.threads
    run_worker(order, device=device, threads=threads, after=lambda entry: progress(entry["line"]), say=progress)
    shutil.rmtree(order.work, ignore_errors=True)
    return order.folder


@contextmanager
def divergence_as_user_error(order: TrainingJob) -> Iterator[None]:
    """Turn a loss that is not finite into the user's mistake: the settings have to be changed.

    Raises:
        UserError: in place of FloatingPointError.
    """
    try:
        yield
    except FloatingPointError as error:
        kept = f"the last good state is kept in {order.work}" if order.work.is_dir() else "no epoch was finished"
        raise UserError(f"the training diverged: {error}; {kept}") from error
