"""Criteria for the importance of channels.

From the weights alone: magnitude (Li et al., ICLR 2017, arXiv:1608.08710), LAMP (Lee et al., ICLR 2021,
arXiv:2010.07611), the geometric median, FPGM (He et al., CVPR 2019, arXiv:1811.00250), scales of batch norms (Liu et
al., ICCV 2017, arXiv:1708.06519). From the change of the training loss: Taylor expansion of the first order (Molchanov
et al., CVPR 2019, arXiv:1906.10771), and of the second with the diagonal of the empirical Fisher matrix for the Hessian
(LeCun et al., Optimal Brain Damage, NeurIPS 1989; Theis et al., arXiv:1801.05787).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from paretune.compression.base import Context
from paretune.compression.prune.dependency_groups import ChannelGroup
from paretune.compression.prune.ranking import Criterion
from paretune.core.errors import UserError
from paretune.core.library_names import IMPORTANCES, SENSITIVITIES
from paretune.core.types import InputSize
from paretune.networks.frozen_batchnorm import is_frozen
from paretune.networks.layer_kinds import WEIGHTED_LAYERS, summed_by_input
from paretune.networks.network_files import copy_network
from paretune.system.device_lock import shared_device
from paretune.training.loader import Batches
from paretune.training.loop import threads_of

Kind = Literal["taylor", "hessian"]


def make_criterion(importance: str, network: nn.Module, size: InputSize, context: Context, images: int) -> Criterion:
    """Return the criterion of this name.

    Args:
        importance: a name in ``library_names.IMPORTANCES`` or ``library_names.SENSITIVITIES``.
        network: the network to prune; it is not changed.
        size: of its input.
        context: detector, training images, seed.
        images: number of training images that gradients are taken from, where the criterion needs gradients.

    Raises:
        UserError: the criterion does not fit the network.
        FloatingPointError: a gradient is not finite.
    """
    if importance in SENSITIVITIES:
        return sensitivity("taylor" if importance == "taylor" else "hessian", network, size, context, images)
    has_norm = any(isinstance(module, nn.BatchNorm2d) or is_frozen(module) for module in network.modules())
    if importance == "bn_scale" and not has_norm:
        raise UserError("prune: importance bn_scale needs batch norms, and this network has none; l1 fits any")
    options = {"p": 1} if importance == "l1" else {}
    score: Callable[[Any], Tensor | None] = _sized(getattr(tp.importance, IMPORTANCES[importance]))(**options)
    return lambda block: score(block.traced)


def _sized(base: type[Any]) -> type[Any]:
    """Return a subclass of one of torch-pruning's criteria that gives one score for each channel.

    torch-pruning sizes the scores by the width of the first layer; after a concatenation that repeats channels this
    leaves unused zero entries.
    """

    class Criterion(base):  # type: ignore[misc]
        def _reduce(self, scores: list[Tensor], channels: list[list[int]]) -> Tensor:
            every = range(1 + max(map(max, channels)))
            # a further row of zeros fixes the length; every criterion normalises the mean over the rows later
            reduced: Tensor = super()._reduce([torch.zeros(len(every)), *scores], [list(every), *channels])
            return reduced

    return Criterion


class GradientSensitivity:
    """Expected change of the training loss without a channel, from the gradients of several batches.

    Removing a channel removes the weights that read it, and no other channel uses these weights. Their terms of the
    expansion are therefore the change of the loss for any coupling of layers, with no path counted twice.

    Args:
        kind: taylor is the mean over the batches of the squared first-order change, hessian that of half the
            squared products of weight and gradient.
        changes: name of a layer → (batches, inputs): products of weight and gradient, summed over the weights that
            read an input; for hessian half of their squares.
    """

    def __init__(self, kind: Kind, changes: Mapping[str, Tensor]) -> None:
        self.kind, self.changes = kind, changes

    def __call__(self, block: ChannelGroup) -> Tensor | None:
        """Return the importance of a group's channels; None if no layer reads them."""
        readers = [member for member in block.members if member.reads and member.name in self.changes]
        if not readers:
            return None
        total = torch.zeros(len(self.changes[readers[0].name]), block.channels)
        for member in readers:
            total.index_add_(1, member.channels, self.changes[member.name][:, member.places])
        return (total.square() if self.kind == "taylor" else total).mean(0)


def sensitivity(kind: Kind, network: nn.Module, size: InputSize, context: Context, images: int) -> GradientSensitivity:
    """Return the criterion, computed from the gradients of about ``images`` training images drawn by the seed.

    Norms keep their statistics, so that the loss is that of the given network.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    device, settings = context.device, context.training
    copied = copy_network(network).to(device).requires_grad_(True).train()
    layers: dict[str, nn.Module] = {}
    for name, module in copied.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        elif isinstance(module, WEIGHTED_LAYERS):
            layers[name] = module
    batches = Batches(
        context.data.splits["train"],
        context.detector.preprocess,
        size,
        batch=min(settings.batch_size, images),
        seed=context.seed,
        readers=settings.loader_threads,
    )
    changes: dict[str, list[Tensor]] = {name: [] for name in layers}
    rng = torch.random.fork_rng([] if device == "cpu" else [device])
    with shared_device(device), threads_of(settings, device), rng, torch.enable_grad():
        torch.manual_seed(context.seed)  # a loss may draw random numbers, such as regions to train on
        for pixels, truth in islice(batches.epoch(0), math.ceil(images / batches.batch)):
            copied.zero_grad(set_to_none=True)
            terms = context.detector.training_loss(copied, pixels.to(device), truth, settings.losses)
            sum(terms.values(), torch.zeros((), device=device)).backward()  # type: ignore[no-untyped-call]
            for name, layer in layers.items():
                changes[name].append(_batch_change(kind, layer).cpu())
    stacked = {name: torch.stack(rows) for name, rows in changes.items()}
    for name, rows in stacked.items():
        if not rows.isfinite().all():
            raise FloatingPointError(f"prune: importance {kind}: a gradient of layer {name} is not finite")
    return GradientSensitivity(kind, stacked)


def _batch_change(kind: Kind, layer: nn.Module) -> Tensor:
    """Return the change of the loss by each input of a layer in one batch, (inputs,)."""
    parameter: Tensor = layer.weight  # type: ignore[assignment]
    weight, gradient = parameter.detach(), parameter.grad
    product = torch.zeros_like(weight) if gradient is None else weight * gradient
    return summed_by_input(layer, product if kind == "taylor" else product.square() / 2)
