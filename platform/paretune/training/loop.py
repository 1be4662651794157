"""The training loop: plain torch, one process, any detector; ``ddp`` runs it on several workers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paretune.detectors.base import Detector
from paretune.device_lock import sharing
from paretune.errors import UserError
from paretune.spec import fingerprint
from paretune.structures import Annotations, InputSize, Split
from paretune.training.loader import Batches
from paretune.training.optimizing import Average, learning_rate, make_optimizer
from paretune.training.settings import Training
from paretune.training.state import State

Loss = Callable[[Callable[..., Any], Tensor, Sequence[Annotations]], dict[str, Tensor]]
"""(the network's forward, images, annotations) → the terms that are added up."""


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    number: int
    """From 1."""
    epochs: int
    """Of how many."""
    losses: dict[str, float]
    """Mean of every term of the loss."""
    lr: float
    """Learning rate of the last step."""
    images_per_second: float
    seconds: float
    """Of training, without waiting for the device."""
    waited: float
    """Seconds until the device was free (somebody measured on it)."""
    state: State = field(repr=False, compare=False)
    """To be saved or forgotten at once: its tensors are those that the next epoch changes."""

    def __str__(self) -> str:
        """Give one line for the user."""
        terms = " + ".join(f"{name} {value:.3f}" for name, value in self.losses.items())
        total = sum(self.losses.values())
        return f"epoch {self.number}/{self.epochs}: loss {total:.3f} = {terms}, {self.images_per_second:.0f} images/s"


@dataclass(frozen=True)
class Options:
    """What a plain training does not need."""

    resume: State | None = None
    """Where to go on."""
    loss: Loss | None = None
    """In place of the detector's own (distillation)."""
    rank: int = 0
    """Which worker this is; torch.distributed is initialised when there are several."""
    world: int = 1
    """Number of workers."""
    leader: bool = True
    """Whether this worker holds the device lock for its machine."""


@dataclass(frozen=True)
class TrainResult:
    """A trained network."""

    network: nn.Module
    """In eval mode on the CPU, with the averaged weights."""
    epochs: tuple[dict[str, Any], ...]
    """Number, losses, learning rate and speed of every epoch of this run."""
    seconds: float
    """Of training."""


def pick_device(wanted: str) -> str:
    """Return the torch device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: a GPU was asked for and there is none.
    """
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("training.device is cuda, but torch finds no GPU; write `device: cpu` or `device: auto`")
    return "cuda" if wanted != "cpu" and there else "cpu"


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
    """Train a network; it is changed, and returned.

    The same arguments give the same weights, also when the training is interrupted and resumed
    (on a CPU with the same number of threads: exactly).

    Args:
        network: of the detector; all its parameters that ask for a gradient are trained.
        detector: preprocessing and loss.
        split: images and annotations.
        size: of the network's input.
        settings: the rest.
        device: torch device to train on; held, shared with other trainings, during each epoch.
        on_epoch: called after each epoch, on every worker.
        options: resume, another loss, several workers.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; the states of the epochs before are good.
        UserError: no such optimizer, or the state is another training's.
    """
    with _threads(settings.threads if device == "cpu" else 0), torch.random.fork_rng(_gpus(device)):
        torch.manual_seed(settings.seed)
        run = _Run(network, detector, settings, device, options)
        batches = Batches(
            split,
            detector.preprocess,
            size,
            batch=settings.batch_size,
            flip=settings.flip,
            seed=settings.seed,
            rank=options.rank,
            world=options.world,
        )
        made_by = _fingerprint(detector, size, settings, options.world)
        start = run.resume(options.resume, made_by, len(batches)) if options.resume else 0
        history: list[dict[str, Any]] = []
        for number in range(start, settings.epochs):
            with _sharing(device, options) as waited:
                began = time.monotonic()
                losses, lr = run.epoch(number, batches)
                seconds = time.monotonic() - began
            speed = len(batches) * settings.batch_size * options.world / seconds
            state = run.state(number + 1, made_by)
            epoch = Epoch(number + 1, settings.epochs, losses, lr, speed, seconds, waited, state)
            history.append({key: value for key, value in vars(epoch).items() if key != "state"})
            if on_epoch is not None:
                on_epoch(epoch)
        return TrainResult(run.finished(), tuple(history), sum(epoch["seconds"] for epoch in history))


class _Run:
    """Network, optimizer and average of one training."""

    def __init__(
        self, network: nn.Module, detector: Detector, settings: Training, device: str, options: Options
    ) -> None:
        self.network = network.to(device=device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.settings, self.device = settings, device
        self.loss: Loss = options.loss or detector.training_loss
        self.optimizer = make_optimizer(network, settings)
        self.average = Average(network, settings.ema) if settings.ema else None
        self.forward: nn.Module = self.network
        if options.world > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.network)

    def epoch(self, number: int, batches: Batches) -> tuple[dict[str, float], float]:
        """Train one epoch (from 0); return the mean of every loss term, and the last learning rate."""
        self.network.train()
        sums: dict[str, float] = {}
        lr = self.settings.lr
        for index, (images, boxes) in enumerate(batches.epoch(number)):
            lr = learning_rate(number * len(batches) + index, len(batches), self.settings)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            terms = self.step(images.to(self.device), boxes, f"epoch {number + 1}, step {index + 1}, lr {lr:.2g}")
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value / len(batches)
        return sums, lr

    def step(self, images: Tensor, annotations: Sequence[Annotations], where: str) -> dict[str, float]:
        """Change the weights once.

        Raises:
            FloatingPointError: loss or gradient is not finite; the weights are as they were.
        """
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.loss(self._forward, images, annotations)
        values = {name: float(term.detach()) for name, term in terms.items()}
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(f"{where}: the loss is {values}; a lower training.lr or training.clip may help")
        sum(terms.values(), torch.zeros((), device=self.device)).backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip or math.inf))
        if not math.isfinite(norm):
            raise FloatingPointError(f"{where}: the gradient is not finite ({norm}); a lower training.lr may help")
        self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return values

    def _forward(self, *arguments: Any) -> Any:
        """Run the network, in mixed precision if that is wanted; the loss is computed outside of it."""
        with torch.autocast(_kind(self.device), torch.bfloat16) if self.settings.amp else nullcontext():
            return self.forward(*arguments)

    def state(self, epoch: int, made_by: str) -> State:
        """Return where the training stands; the tensors are the live ones."""
        average = {} if self.average is None else self.average.network.state_dict()
        return State(
            made_by, epoch, self.network.state_dict(), average, self.optimizer.state_dict(), torch.get_rng_state()
        )

    def resume(self, state: State, made_by: str, steps_per_epoch: int) -> int:
        """Go on from a state; return the epochs it has done.

        Raises:
            UserError: it is another training's.
        """
        if state.made_by != made_by:
            raise UserError("the saved training has another detector, input size or settings; delete it to train anew")
        self.network.load_state_dict(state.network)
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None:
            self.average.load(state.average, state.epoch * steps_per_epoch)
        torch.set_rng_state(state.random)
        return state.epoch

    def finished(self) -> nn.Module:
        """Return the network with its final weights, in eval mode on the CPU."""
        if self.average is not None:
            self.network.load_state_dict(self.average.network.state_dict())
        self.optimizer.zero_grad(set_to_none=True)
        return self.network.to(device="cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]


def _fingerprint(detector: Detector, size: InputSize, settings: Training, world: int) -> str:
    """Return what makes a training this one; where it runs does not."""
    what = {key: value for key, value in settings.tree().items() if key not in ("device", "threads")}
    return fingerprint(detector.named(), str(size), what, world)


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Give torch this many threads, and its own number back afterwards; 0 leaves it as it is."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _sharing(device: str, options: Options) -> Iterator[float]:
    """Hold the device together with other trainings; yields the seconds waited.

    Of several workers on a machine one holds it for all: were each to ask by itself, one could wait
    for a measurement that waits for another, which waits for the first to join in.
    """
    with sharing(_kind(device)) if options.leader else nullcontext(0.0) as waited:
        if options.world > 1:
            dist.barrier()
        yield waited
        if options.world > 1:
            dist.barrier()


def _kind(device: str) -> str:
    """Return ``cuda`` for ``cuda:1``."""
    return device.partition(":")[0]


def _gpus(device: str) -> list[str]:
    return [device] if device != "cpu" else []
