"""One training as an order: what is trained on what, and the folder that receives it; carried out by any process.

The folder holds ``unfinished/`` with the last state and a line for each epoch while the training goes on;
in the end the network (weights and structure) and ``training.json``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError
from paretune.core.spec import fingerprint, parse_plugin
from paretune.core.types import InputSize, Thresholds
from paretune.data.base import Dataset
from paretune.data.left_out import record_of, refuse_gaps
from paretune.detectors import DETECTORS
from paretune.detectors.base import Detector
from paretune.storage.artefact import write_text
from paretune.training.extras import How, trained
from paretune.training.initial_weights import begun, left_to_say
from paretune.training.remote_checkpoint import Storage
from paretune.training.settings import Training

if TYPE_CHECKING:
    from torch import nn

    from paretune.core.types import Data

KEPT = ("epochs.jsonl", "state.pt")
"""Files of an unfinished training, in the order in which they are saved."""
UNFINISHED = "unfinished"
"""Folder of these files, in the one that receives the network."""
HISTORY = "training.json"
"""What was trained, and what every epoch did, beside the trained network."""


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Order:
    """All that a worker is told; plain data, it opens the dataset by itself."""

    detector: Detector
    dataset: Dataset
    cache: Path
    """For what the dataset generates; the same place on all machines."""
    size: InputSize
    settings: Training
    folder: Path
    """Receives the network; the same place on all machines."""
    start: Path | None = None
    """Folder of a network to go on from; None begins with fresh weights."""
    how: How = field(default_factory=How)
    """What comes on top of the settings."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """What is kept of what it finds, where it is validated."""

    @property
    def work(self) -> Path:
        """Return where the training keeps what it needs to be resumed."""
        return self.folder / UNFINISHED

    @property
    def key(self) -> str:
        """Return a name that no other training has."""
        what = (self.detector.named(), self.dataset.named(), str(self.size), self.settings.as_computed(), self.how.key)
        return f"{self.folder.name}-{fingerprint(*what)}"

    def is_done(self) -> bool:
        """Tell whether the network is there."""
        from paretune.networks.network_files import STRUCTURE

        return (self.folder / STRUCTURE).is_file()


def carry_out(
    order: Order,
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
    from paretune.training.checkpoint import load_state, save_state
    from paretune.training.loop import Epoch, Options

    settings = order.settings
    storage = None if settings.storage is None or rank else Storage(settings.storage, order.key)
    if storage is not None:
        storage.get(order.work, KEPT)
    if world > 1:
        torch.distributed.barrier()  # all go on from the same state
    data = _opened(order)
    network, notes = begun(order.detector, data, order.size, settings, order.start)
    before = [] if rank else left_to_say(notes, say)

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

    result = trained(
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


def _opened(order: Order) -> Data:
    """Open the data; a training that begins anew refuses what lacks a large part of itself."""
    data = order.dataset.open(order.cache)
    if order.start is None and not epochs_of(order.work):
        refuse_gaps(data, order.dataset)
    return data


def train_here(order: Order, progress: Callable[[str], None] = _silent) -> Path:
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
    carry_out(order, device=device, threads=threads, after=lambda entry: progress(entry["line"]), say=progress)
    shutil.rmtree(order.work, ignore_errors=True)
    return order.folder


@contextmanager
def divergence_told(order: Order) -> Iterator[None]:
    """Turn a loss that is not finite into the user's mistake: the settings have to be changed.

    Raises:
        UserError: in place of FloatingPointError.
    """
    try:
        yield
    except FloatingPointError as error:
        kept = f"the last good state is kept in {order.work}" if order.work.is_dir() else "no epoch was finished"
        raise UserError(f"the training diverged: {error}; {kept}") from error


def epochs_of(work: Path) -> list[dict[str, Any]]:
    """Return the epochs written so far; a line that is being written does not count yet."""
    path = work / KEPT[0]
    text = path.read_text() if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("}\n")]


def was_begun(folder: Path) -> bool:
    """Tell whether a training in this folder has finished an epoch at least."""
    return (folder / HISTORY).is_file() or bool(epochs_of(folder / UNFINISHED))


def _append(work: Path, entry: dict[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / KEPT[0]).open("a") as file:
        file.write(json.dumps(entry) + "\n")


def read_history(folder: Path) -> dict[str, Any]:
    """Return what ``training.json`` of a trained network says; nothing where there is none.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / HISTORY
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: not readable ({error})") from error


def unfit_baseline(source: Path, detector: Detector) -> str | None:
    """Return why a folder cannot be taken as a detector's trained network, as far as it says so itself, or None."""
    if not (source / "structure.json").is_file():
        return f"{source} holds no trained network (structure.json and weights.safetensors)"
    trained = read_history(source).get("detector", detector.named())
    try:
        same = parse_plugin(trained, DETECTORS) == detector  # an older Paretune told fewer fields
    except ValueError:  # pydantic's errors are
        same = False
    return None if same else f"{source} is a {trained}, and the job's is {detector.named()}"


def adopt(source: Path, detector: Detector, classes: tuple[str, ...], folder: Path) -> None:
    """Take a trained network over into a folder, when it fits.

    Raises:
        UserError: there is none, or it is of another detector or other classes.
    """
    if said := unfit_baseline(source, detector):
        raise UserError(f"baseline: {said}")
    from paretune.networks.network_files import STRUCTURE, WEIGHTS, load_network

    trained = read_history(source).get("classes", list(classes))
    if trained != list(classes):
        raise UserError(f"baseline: {source}: trained for {', '.join(trained)}; the dataset has {', '.join(classes)}")
    if outputs_of(detector, load_network(detector, len(classes), source)) != outputs_of(
        detector, detector.build(len(classes))
    ):
        raise UserError(f"baseline: {source}: not trained for {len(classes)} classes, as the dataset has")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (HISTORY, WEIGHTS, STRUCTURE):  # the structure marks a complete one
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def outputs_of(detector: Detector, network: nn.Module) -> list[int]:
    """Return the outputs of a network's predictors: no pruning changes them."""
    from paretune.networks.network_files import layers

    counts, predictors = layers(network), {id(module) for module in detector.protected(network)}
    names = [name for name, module in network.named_modules() if id(module) in predictors]
    return [value for name in names for key, value in counts[name].items() if key.startswith("out_")]
