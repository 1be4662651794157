"""The training loop: torch in one process for any detector; ``distributed`` runs it on several workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from paretune.core.errors import UserError
from paretune.core.spec import fingerprint
from paretune.core.types import InputSize, Split, Thresholds
from paretune.detectors.base import Detector
from paretune.system.device_lock import locks_of, machine, shared_device
from paretune.training.checkpoint import TrainingState
from paretune.training.history import TrainingStep, no_step
from paretune.training.loader import training_batches
from paretune.training.settings import Training
from paretune.training.trainer import Loss, Trainer, TrainingDevice
from paretune.training.validation import validate


@dataclass(frozen=True)
class Epoch:
    """Results of one epoch."""

    number: int
    """Number of the epoch, from 1."""
    epochs: int
    """Number of epochs of the training."""
    losses: dict[str, float]
    """Name of a loss term → its mean."""
    lr: float
    """Learning rate of the last step."""
    images_per_second: float
    seconds: float
    """Seconds of training, without the wait for the device."""
    waited: float
    """Seconds of waiting until no measurement used the device."""
    waiting: float
    """Share of the seconds that the training waited for batches."""
    map: float | None
    """Map on the validation split, of the network that is kept; None if this epoch was not validated."""
    left: float
    """Expected seconds of the remaining epochs."""
    precision: str
    """Type that the network computed in: float32, bfloat16 or float16."""
    state: TrainingState = field(repr=False, compare=False)
    """State to save at once, since the next epoch changes its tensors."""

    def facts(self) -> dict[str, Any]:
        """Return everything except the state, as plain data for the log."""
        return {key: value for key, value in vars(self).items() if key != "state"}

    def __str__(self) -> str:
        """Return one line for the user."""
        terms = " + ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        words = [f"loss {sum(self.losses.values()):.3f} = {terms}", f"lr {self.lr:.2g}"]
        words.append(f"{self.images_per_second:.0f} images/s")
        words += [f"{self.waiting:.0%} waiting for pictures"] if self.waiting >= 0.1 else []
        words += [] if self.map is None else [f"map {self.map:.3f}"]
        words += [f"{duration(self.left)} left"] if self.number < self.epochs else []
        return f"epoch {self.number}/{self.epochs}: {', '.join(words)}"


def duration(seconds: float) -> str:
    """Return a time in words, such as ``40 s``, ``12 min`` or ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@dataclass(frozen=True)
class Options:
    """Options that a plain training does not need."""

    resume: TrainingState | None = None
    """State to resume from."""
    loss: Loss | None = None
    """Loss in place of the detector's, for distillation."""
    rank: int = 0
    """Number of this worker; torch.distributed is initialised if there are several."""
    world: int = 1
    """Number of workers."""
    val: Split | None = None
    """Split for evaluations between epochs, if the settings have any."""
    keep_zeros: bool = False
    """True if weights that are zero in the given network stay zero."""
    thresholds: Thresholds = field(default_factory=Thresholds)
    """Thresholds of the postprocessing in evaluations."""
    rungs: frozenset[int] = frozenset()
    """Epochs after which the network is validated too; the weights do not depend on it."""
    on_step: Callable[[TrainingStep], None] = no_step
    """Called after each step, on every worker; the weights do not depend on it."""


@dataclass(frozen=True)
class TrainResult:
    """A trained network."""

    network: nn.Module
    """Network in eval mode on the CPU, with the averaged weights."""
    epochs: tuple[dict[str, Any], ...]
    """Number, losses, learning rate and speed of every epoch of this run."""
    seconds: float
    """Seconds of training."""
    best: int | None = None
    """Epoch whose network is kept, if the training may end early; None for the last."""


def pick_device(requested: str) -> str:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: a GPU was requested and there is none.
    """
    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise UserError("training.device is cuda, but torch finds no GPU; write `device: cpu` or `device: auto`")
    return "cuda" if requested != "cpu" and available else "cpu"


def train(
    network: nn.Module,
    detector: Detector,
    split: Split,
    size: InputSize,
    settings: Training,
    *,
    device: str = "cpu",
    on_epoch: Callable[[Epoch], None] | None = None,
    options: Options = Options(),
) -> TrainResult:
    """Train a network in place, and return it.

    Equal arguments give equal weights, also if the training is interrupted and resumed (bit by bit on a CPU with the
    same number of threads).

    Args:
        network: of the detector; all parameters that require a gradient are trained.
        detector: preprocessing and loss.
        split: images and annotations.
        size: of the network's input.
        settings: of the training.
        device: torch device to train on; locked together with other trainings during each epoch.
        on_epoch: called after each epoch, on every worker.
        options: saved state, another loss, several workers.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; the states of earlier epochs are good.
        UserError: the optimizer is unknown, or the state belongs to another training.
    """
    if settings.validate_every and options.val is None:
        raise UserError("training.validate_every: there is no validation split")
    place = TrainingDevice(device, options.rank, options.world)
    with threads_of(settings, device), torch.random.fork_rng(_gpus(device)):
        torch.manual_seed(settings.seed)
        run = Trainer(network, detector, settings, size, place, options.loss, options.keep_zeros)
        batches = training_batches(
            split, detector, size, settings, epochs=settings.epochs, rank=options.rank, world=options.world
        )
        locks = _locks(place)
        made_by = _fingerprint(detector, size, settings, options.world)
        start = run.resume(options.resume, made_by) if options.resume else 0
        history: list[dict[str, Any]] = []
        begun = time.monotonic()
        for number in range(start, settings.epochs if run.patient(start) else start):
            with _sharing(locks, options) as waited:
                began = time.monotonic()
                losses, lr = run.epoch(number, batches.epoch(number), len(batches), options.on_step)
                seconds = time.monotonic() - began
                due = _validation_due(settings, number + 1)
                asked = due or (number + 1 in options.rungs and options.val is not None)
                score = _score(run, detector, options, size, settings) if asked else None
            goes_on = run.take_score(score, number + 1) if due else True
            epoch = Epoch(
                number=number + 1,
                epochs=settings.epochs,
                losses=losses,
                lr=lr,
                images_per_second=len(batches) * settings.batch_size * options.world / seconds,
                seconds=seconds,
                waited=waited,
                waiting=min(1.0, batches.waited / seconds),
                map=score,
                left=(settings.epochs - number - 1) * (time.monotonic() - begun) / (number + 1 - start),
                precision=str(run.precision.dtype).removeprefix("torch."),
                state=run.state(number + 1, made_by),
            )
            history.append(epoch.facts())
            if on_epoch is not None:
                on_epoch(epoch)
            if not goes_on:
                break
        best = None if run.best is None else run.best.epoch
        return TrainResult(run.finished(), tuple(history), sum(epoch["seconds"] for epoch in history), best)


def _validation_due(settings: Training, done: int) -> bool:
    every = settings.validate_every
    return bool(every) and (done % every == 0 or done == settings.epochs)


def _score(run: Trainer, detector: Detector, options: Options, size: InputSize, settings: Training) -> float | None:
    """Return the map of the network that is kept, equal on every worker."""
    place = run.place
    assert options.val is not None  # noqa: S101 - checked by train
    accuracy = validate(
        run.evaluated,
        detector,
        options.val,
        size,
        device=place.device,
        batch=settings.batch_size,
        rank=place.rank,
        world=place.world,
        thresholds=options.thresholds,
    )
    scores = [None if accuracy is None else accuracy.map]
    if place.world > 1:
        dist.broadcast_object_list(scores, 0)
    return scores[0]


def _fingerprint(detector: Detector, size: InputSize, settings: Training, world: int) -> str:
    """Return a fingerprint of a training, which does not depend on where it runs."""
    return fingerprint(detector.named(), str(size), settings.as_computed(), world)


@contextmanager
def threads_of(settings: Training, device: str) -> Iterator[None]:
    """Set torch's threads on a CPU from the settings during the context; 0 leaves them unchanged."""
    before = torch.get_num_threads()
    if settings.threads and device == "cpu":
        torch.set_num_threads(settings.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _locks(place: TrainingDevice) -> tuple[str, ...]:
    """Return the device locks that this worker holds.

    One of several workers on a machine holds the locks of all. If each took its own, one could wait for a measurement
    that waits for another worker, which in turn waits for the first one.
    """
    own = locks_of(place.device)
    if place.world == 1:
        return own
    workers: list[Any] = [None] * place.world
    dist.all_gather_object(workers, (machine(), own))
    here = [rank for rank, (where, _) in enumerate(workers) if where == workers[place.rank][0]]
    return tuple(sorted({lock for rank in here for lock in workers[rank][1]})) if place.rank == here[0] else ()


@contextmanager
def _sharing(locks: tuple[str, ...], options: Options) -> Iterator[float]:
    """Hold devices together with other trainings, and yield the seconds waited."""
    with shared_device(*locks) as waited:
        if options.world > 1:
            dist.barrier()
        yield waited
        if options.world > 1:
            dist.barrier()


def _gpus(device: str) -> list[str]:
    return [device] if device != "cpu" else []
