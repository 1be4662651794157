"""The changing parts of a training: network, optimizer, moving average, the best network so far."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.errors import UserError
from paretune.core.types import Annotations, InputSize
from paretune.detectors.base import Detector
from paretune.training.checkpoint import BestNetwork, TrainingState
from paretune.training.history import TrainingStep, no_step
from paretune.training.mixed_precision import MixedPrecision, computed_in
from paretune.training.multi_scale import drawn, sizes_around
from paretune.training.optimizer import ModelEma, SparsityMask, make_optimizer
from paretune.training.settings import Training

Loss = Callable[[Callable[..., Any], Tensor, Sequence[Annotations]], dict[str, Tensor]]
"""(the network's forward, images, annotations) → the terms of the loss."""
TrainingBatch = tuple[Tensor, list[Annotations]]


@dataclass(frozen=True)
class TrainingDevice:
    """Device and worker of a training."""

    device: str = "cpu"
    rank: int = 0
    """Number of this worker; torch.distributed is initialised if there are several."""
    world: int = 1

    @property
    def kind(self) -> str:
        """Return the kind of device, such as ``cuda`` for ``cuda:1``."""
        return self.device.partition(":")[0]


class Trainer:
    """Network, optimizer and moving average of one training.

    Args:
        network: trained in place, on the place's device.
        detector: gives the loss.
        settings: of the training.
        size: of the network's input.
        place: device and worker.
        loss: loss in place of the detector's.
        keep_zeros: whether weights that are zero now stay zero.
    """

    def __init__(
        self,
        network: nn.Module,
        detector: Detector,
        settings: Training,
        size: InputSize,
        place: TrainingDevice,
        loss: Loss | None = None,
        keep_zeros: bool = False,
    ) -> None:
        self.network = network.to(device=place.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.settings, self.place = settings, place
        self.loss: Loss = loss or functools.partial(detector.training_loss, losses=settings.losses)
        self.optimizer = make_optimizer(network, settings)
        self.precision = MixedPrecision(computed_in(settings.amp, place.kind), place.kind)
        self.average = ModelEma(network, settings.ema) if settings.ema else None
        self.zeros = SparsityMask(network.parameters() if keep_zeros else ())
        self.best: BestNetwork | None = None
        sizes = (s for s in sizes_around(size, settings.multi_scale) if detector.size_unsupported_reason(s) is None)
        self.sizes = tuple(sizes) or (size,)
        self.frozen_parts = detector.distill_features
        self.forward: nn.Module = self.network
        if place.world > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.network)

    @property
    def evaluated(self) -> nn.Module:
        """The network that is validated and kept: the moving average, if there is one."""
        return self.network if self.average is None else self.average.network

    def epoch(
        self,
        number: int,
        batches: Iterator[TrainingBatch],
        count: int,
        on_step: Callable[[TrainingStep], None] = no_step,
    ) -> tuple[dict[str, float], float]:
        """Train one epoch.

        Args:
            number: number of the epoch, from 0.
            batches: batches of this worker.
            count: number of batches.
            on_step: called after each step.

        Returns:
            The mean of every loss term, over all workers, and the last learning rate.
        """
        # random numbers of losses and layers are equal after a resume
        torch.manual_seed(
            int(np.random.SeedSequence([self.settings.seed, number, self.place.rank]).generate_state(1)[0])
        )
        self.network.train()
        frozen = self._freeze() if number < self.settings.freeze_epochs else ()
        sums: dict[str, float] = {}
        lr, steps = self.settings.lr, math.ceil(count / self.settings.accumulate)
        for index in range(steps):
            step, length = (
                number * steps + index,
                min(self.settings.accumulate, count - index * self.settings.accumulate),
            )
            lr = learning_rate(step, steps, self.settings)
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = lr
            group = self._placed(islice(batches, length), drawn(self.sizes, self.settings.seed, step))
            where = f"epoch {number + 1}, step {index + 1}, lr {lr:.2g}"
            for name, value in self.step(group, length, where, frozen).items():
                sums[name] = sums.get(name, 0.0) + value / count
            seen = index * self.settings.accumulate + length
            loss = sum(sums.values()) * count / seen
            on_step(TrainingStep(number + 1, self.settings.epochs, index + 1, steps, loss))
        return self._over_workers(sums), lr

    def _freeze(self) -> tuple[nn.Parameter, ...]:
        """Freeze the statistics of the backbone's norms, and return its parameters, whose gradients are discarded."""
        backbone = [self.network.get_submodule(name) for name in self.frozen_parts]
        for module in backbone:
            module.eval()
        return tuple(parameter for module in backbone for parameter in module.parameters())

    def _placed(self, batches: Iterator[TrainingBatch], size: InputSize) -> Iterator[TrainingBatch]:
        for images, truth in batches:
            yield at_size(images.to(self.place.device), truth, size)

    def step(
        self, group: Iterator[TrainingBatch], length: int, where: str, frozen: Sequence[nn.Parameter] = ()
    ) -> dict[str, float]:
        """Update the weights once by the mean gradient of ``length`` batches, and return the sums of the loss terms.

        Frozen parameters stay unchanged; their gradients are computed and discarded, since workers exchange those of
        all parameters.

        Raises:
            FloatingPointError: the loss or the gradient is not finite; the weights are unchanged.
        """
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for number, (images, truth) in enumerate(group, start=1):
            with self._without_sync(number < length):
                terms = self.loss(self._forward, images, truth)
                values = {name: float(term.detach()) for name, term in terms.items()}
                if not all(map(math.isfinite, values.values())):
                    hint = "a lower training.lr or training.clip may help"
                    raise FloatingPointError(f"{where}: the loss is {values}; {hint}")
                self.precision.backward(sum(terms.values(), torch.zeros((), device=images.device)) / length)
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value
        for parameter in frozen:
            parameter.grad = None
        self.precision.unscale(self.optimizer)
        self.zeros.in_gradients()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip or math.inf))
        finite = math.isfinite(norm)
        if not finite and not self.precision.scaler.is_enabled():
            raise FloatingPointError(f"{where}: the gradient is not finite ({norm}); a lower training.lr may help")
        stepped = self.precision.step(self.optimizer, finite)
        self.zeros.in_weights()
        if stepped and self.average is not None:
            self.average.update()
        return sums

    def _without_sync(self, more: bool) -> AbstractContextManager[Any]:
        """Return a context without exchange of gradients, if more batches of the step follow."""
        if more and isinstance(self.forward, nn.parallel.DistributedDataParallel):
            return self.forward.no_sync()
        return nullcontext()

    def _forward(self, *arguments: Any, **named: Any) -> Any:
        with self.precision.forward():
            return self.forward(*arguments, **named)

    def _over_workers(self, sums: dict[str, float]) -> dict[str, float]:
        """Return the loss terms as means over the workers."""
        if self.place.world == 1:
            return sums
        values = torch.tensor(list(sums.values()), dtype=torch.float64, device=self.place.device)
        dist.all_reduce(values)
        return dict(zip(sums, (values / self.place.world).tolist(), strict=True))

    def take_score(self, score: float | None, epoch: int) -> bool:
        """Note the map of the evaluated network after an epoch, and return whether the training goes on.

        Raises:
            UserError: the map is unknown, since the split has no objects.
        """
        if not self.settings.patience:
            return True
        if score is None:
            raise UserError("training.patience: the validation split holds no objects, so nothing tells when to stop")
        if self.best is None or score > self.best.map:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.evaluated.state_dict().items()}
            self.best = BestNetwork(score, epoch, weights)
        return self.patient(epoch)

    def patient(self, epoch: int) -> bool:
        """Return whether the training goes on after this epoch."""
        patience = self.settings.patience
        return not patience or self.best is None or epoch - self.best.epoch < patience

    def state(self, epoch: int, made_by: str) -> TrainingState:
        """Return the state of the training, with the tensors themselves and not copies."""
        return TrainingState(
            made_by,
            epoch,
            self.network.state_dict(),
            {} if self.average is None else self.average.network.state_dict(),
            self.optimizer.state_dict(),
            0 if self.average is None else self.average.steps,
            self.precision.state(),
            {} if self.best is None else vars(self.best),
        )

    def resume(self, state: TrainingState, made_by: str) -> int:
        """Restore a state, and return the number of its epochs.

        Raises:
            UserError: the state belongs to another training.
        """
        if state.made_by != made_by:
            raise UserError("the saved training has another detector, input size or settings; delete it to train anew")
        self.network.load_state_dict(state.network)
        self.optimizer.load_state_dict(state.optimizer)
        if self.average is not None:
            self.average.load(state.average, state.averaged)
        self.precision.load(state.scale)
        self.best = BestNetwork(**state.best) if state.best else None
        return state.epoch

    def finished(self) -> nn.Module:
        """Return the network with its final weights, in eval mode on the CPU."""
        weights = self.evaluated.state_dict() if self.best is None else self.best.network
        self.network.load_state_dict(weights)
        self.optimizer.zero_grad(set_to_none=True)
        return self.network.to(device="cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[no-any-return]


def at_size(images: Tensor, annotations: list[Annotations], size: InputSize) -> TrainingBatch:
    """Return a batch (B, 3, H, W) and its boxes resized to another input size."""
    height, width = images.shape[-2:]
    if (height, width) == (size.height, size.width):
        return images, annotations
    scaled = F.interpolate(images, (size.height, size.width), mode="bilinear", align_corners=False)
    factor = np.array([size.width / width, size.height / height] * 2, np.float32)
    moved = [Annotations(entry.boxes * factor, entry.labels, entry.ignore) for entry in annotations]
    return scaled.contiguous(memory_format=torch.channels_last), moved


FLOOR = 0.01
"""Final share of the learning rate in the schedules cosine and linear."""


def learning_rate(step: int, steps_per_epoch: int, settings: Training) -> float:
    """Return the learning rate of one step (from 0): a linear warm-up, then the schedule.

    The cosine schedule is half a period of Loshchilov and Hutter, "SGDR", arXiv:1608.03983.
    """
    total = settings.epochs * steps_per_epoch
    warm = min(round(settings.warmup_epochs * steps_per_epoch), total // 2)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    if settings.schedule == "constant":
        return settings.lr
    if settings.schedule == "step":
        return settings.lr * settings.gamma ** sum(step >= mark * total for mark in settings.milestones)
    progress = min(1.0, (step - warm) / max(1, total - warm))
    left = 1 - progress if settings.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return settings.lr * (FLOOR + (1 - FLOOR) * left)
