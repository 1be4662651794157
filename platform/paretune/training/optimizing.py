"""What changes the weights: optimizer, learning rate over time, and the moving average that is kept."""

from __future__ import annotations

import copy
import inspect
import math

import torch
from torch import Tensor, nn

from paretune.errors import UserError, did_you_mean
from paretune.training.settings import Training

FLOOR = 0.01
"""What is left of the learning rate in the end."""
MOMENTUM = 0.9
_NOT_USABLE = {"Optimizer", "LBFGS", "SparseAdam"}
"""Not an optimizer itself; needs the loss several times a step; takes sparse gradients only."""


def make_optimizer(network: nn.Module, settings: Training) -> torch.optim.Optimizer:
    """Build the optimizer that the settings name.

    Weights of convolutions and linear layers decay; norms and biases, whose size means something, do
    not. Where the optimizer knows momentum it is 0.9, in Nesterov's form where there is one.

    Raises:
        UserError: torch.optim has no such optimizer, or it cannot train this network.
    """
    names = [name for name, value in vars(torch.optim).items() if isinstance(value, type) and name not in _NOT_USABLE]
    if settings.optimizer not in names:
        known = ", ".join(sorted(names))
        raise UserError(f"optimizer {settings.optimizer!r}{did_you_mean(settings.optimizer, names)}; known: {known}")
    cls = getattr(torch.optim, settings.optimizer)
    accepted = inspect.signature(cls).parameters
    options = {"momentum": MOMENTUM, "nesterov": True} if settings.optimizer == "SGD" else {}
    if "fused" in accepted:
        options["fused"] = True  # one kernel for all weights: on a CPU too, 5x faster than one by one
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, object]] = [{"params": decayed}, {"params": others}]
    if "weight_decay" in accepted:
        groups[0]["weight_decay"], groups[1]["weight_decay"] = settings.weight_decay, 0.0
    try:
        optimizer: torch.optim.Optimizer = cls(groups, lr=settings.lr, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer {settings.optimizer!r} cannot train this network: {error}") from error
    return optimizer


def learning_rate(step: int, steps_per_epoch: int, settings: Training) -> float:
    """Return the learning rate of one step (from 0): a straight rise, then half a cosine down to 1 %.

    Loshchilov and Hutter, "SGDR", arXiv:1608.03983.
    """
    total = settings.epochs * steps_per_epoch
    warm = min(round(settings.warmup_epochs * steps_per_epoch), total // 2)
    if step < warm:
        return settings.lr * (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, total - warm)
    return settings.lr * (FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * min(1.0, progress))) / 2)


class Average:
    """The exponential moving average of weights and batch-norm statistics (Polyak and Juditsky, 1992).

    The decay rises with the steps, (1 + n) / (10 + n) at most, so that the first weights, which are
    noise, are forgotten also in a training of few steps.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self._pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network as it is now."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mean, now in self._pairs:
            if mean.is_floating_point():
                mean.lerp_(now, share)
            else:
                mean.copy_(now)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Go on from an average that was taken over some steps."""
        self.network.load_state_dict(weights)
        self.steps = steps
