"""The update of the weights: the optimizer that a training names, the mask of zeros, and the moving average."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paretune.core.errors import UserError, did_you_mean, one_line


class OptimizerFields(Protocol):
    """Fields of a training that the optimizer depends on."""

    @property
    def optimizer(self) -> str:
        """Return the name of a class of torch.optim."""

    @property
    def lr(self) -> float:
        """Return the highest learning rate."""

    @property
    def weight_decay(self) -> float:
        """Return the weight decay."""

    @property
    def momentum(self) -> float | None:
        """Return the momentum; None for the optimizer's default."""

    @property
    def model_fields_set(self) -> set[str]:
        """Return the names of the fields that the user has set."""


MOMENTUM = 0.9
"""Default momentum of SGD."""
_NOT_DECAYED = (nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.EmbeddingBag)
"""Modules whose weights do not decay although they may have several dimensions."""


def make_optimizer(network: nn.Module, settings: OptimizerFields) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name.

    Raises:
        UserError: torch.optim has no such optimizer, or it cannot train this network.
    """
    cls: Any = _class_of(settings.optimizer)
    accepted = inspect.signature(cls).parameters
    decayed, others = decay_groups(network)
    groups: list[dict[str, object]] = [{"params": decayed}, {"params": others}]
    if "weight_decay" in accepted:
        groups[0]["weight_decay"], groups[1]["weight_decay"] = settings.weight_decay, 0.0
    groups = [group for group in groups if group["params"]]
    options = _momentum(settings, {name: argument.default for name, argument in accepted.items()})
    if "fused" in accepted:
        options["fused"] = True  # one kernel for all weights, 5x faster than single ones, also on a CPU
    try:
        optimizer: torch.optim.Optimizer = cls(groups, lr=settings.lr, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{settings.optimizer} cannot train this network: {one_line(error)}") from error
    return optimizer


def optimizer_unsupported_reason(settings: OptimizerFields) -> str | None:
    """Return why an optimizer cannot train with the settings, in one line, or None.

    It is tested with two steps on a small network with a convolution, a norm and a linear layer.
    """
    try:
        cls = _class_of(settings.optimizer)
        decays = "weight_decay" in inspect.signature(cls).parameters
        if settings.weight_decay and "weight_decay" in settings.model_fields_set and not decays:
            return f"{settings.optimizer} knows no weight decay"
        with torch.random.fork_rng([]), torch.enable_grad():
            network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
            optimizer = make_optimizer(network, settings)
            for _ in range(2):
                optimizer.zero_grad()
                network(torch.ones(2, 3, 3, 3)).square().sum().backward()
                optimizer.step()
    except UserError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - a class of torch.optim may raise anything
        return f"cannot train a network: {one_line(error)}"
    return None


def _class_of(name: str) -> type[torch.optim.Optimizer]:
    cls = getattr(torch.optim, name, None)
    if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer:
        return cls
    known = [one for one, cls in inspect.getmembers(torch.optim, inspect.isclass) if one != "Optimizer"]
    raise UserError(f"no such optimizer in torch.optim: {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")


def decay_groups(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters with weight decay, and those without.

    Parameters without weight decay are those of norms and embeddings, biases, and all with one dimension or none.
    """
    kept = {
        id(p)
        for module in network.modules()
        if isinstance(module, _NOT_DECAYED)
        for p in module.parameters(recurse=False)
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim > 1 and id(parameter) not in kept and name.rpartition(".")[2] != "bias"
            (decayed if plain else others).append(parameter)
    return decayed, others


def _momentum(settings: OptimizerFields, accepted: Mapping[str, Any]) -> dict[str, object]:
    """Return the momentum as arguments of torch's class; ``accepted`` are its arguments with their defaults.

    Raises:
        UserError: the settings name a momentum, and the optimizer has none.
    """
    if settings.optimizer == "SGD":
        momentum = MOMENTUM if settings.momentum is None else settings.momentum
        return {"momentum": momentum, "nesterov": momentum > 0}
    if settings.momentum is None:
        return {}
    if "betas" in accepted:
        return {"betas": (settings.momentum, *accepted["betas"][1:])}
    if "momentum" not in accepted:
        raise UserError(f"{settings.optimizer} has no momentum")
    return {"momentum": settings.momentum}


class ModelEma:
    """The exponential moving average of weights and batch-norm statistics (Polyak and Juditsky, 1992).

    The decay rises with the steps, (1 + n) / (10 + n) at most, so that the random first weights lose their influence
    also in a short training.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0
        self._pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights to the average."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for mean, now in self._pairs:
            if mean.is_floating_point():
                mean.lerp_(now, share)
            else:
                mean.copy_(now)

    def load(self, weights: dict[str, Tensor], steps: int) -> None:
        """Restore an average over this many steps."""
        self.network.load_state_dict(weights)
        self.steps = steps


class SparsityMask:
    """Mask of the weights that are zero before a training, which keeps them at zero.

    It covers trained parameters with more than one dimension. Han et al., Learning both Weights and Connections,
    NeurIPS 2015 (arXiv:1506.02626); for pattern 2:4 Mishra et al., arXiv:2104.08378, section 3.1.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        trained = (weight for weight in parameters if weight.requires_grad and weight.ndim > 1)
        self._kept = [(weight, weight.detach() != 0) for weight in trained if not weight.all()]

    def in_gradients(self) -> None:
        """Set the gradients of zeros to zero, so that neither the gradient's norm nor a momentum includes them."""
        for weight, kept in self._kept:
            if weight.grad is not None:
                weight.grad.mul_(kept)

    @torch.no_grad()
    def in_weights(self) -> None:
        """Set the masked weights to zero again after a step of the optimizer."""
        for weight, kept in self._kept:
            weight.mul_(kept)
