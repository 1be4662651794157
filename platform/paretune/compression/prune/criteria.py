"""What makes a channel important.

Of the weights alone: magnitude (Li et al., ICLR 2017, arXiv:1608.08710), LAMP (Lee et al., ICLR 2021,
arXiv:2010.07611), the geometric median, FPGM (He et al., CVPR 2019, arXiv:1811.00250), scales of batch norms (Liu et
al., ICCV 2017, arXiv:1708.06519). By what the training loss would lose: Taylor expansion of the first order (Molchanov
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
from paretune.networks.network_files import copy_network
from paretune.system.device_lock import shared_device
from paretune.training.loader import Batches
from paretune.training.loop import threads_of

Kind = Literal["taylor", "hessian"]


def make_criterion(importance: str, network: nn.Module, size: InputSize, context: Context, images: int) -> Criterion:
    """Return the criterion of this name.

    Args:
        importance: a name in ``names.IMPORTANCES`` or ``names.SENSITIVITIES``.
        network: that is to be pruned; it is not changed.
        size: of its input.
        context: detector, training images, seed.
        images: of the training split, from which gradients are taken where the criterion asks for them.

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
    theirs: Callable[[Any], Tensor | None] = _sized(getattr(tp.importance, IMPORTANCES[importance]))(**options)
    return lambda block: theirs(block.traced)


def _sized(base: type[Any]) -> type[Any]:
    """Return one of torch-pruning's criteria with as many scores as there are channels.

    Its own have as many as the first layer that it scores has places; where that one reads a concatenation in
    which each channel stands twice, half of them are of no channel, and nought.
    """

    class Criterion(base):  # type: ignore[misc]
        def _reduce(self, scores: list[Tensor], channels: list[list[int]]) -> Tensor:
            every = range(1 + max(map(max, channels)))
            # one more part of nothing: the mean over the parts is normalised after, by any of the criteria
            whole: Tensor = super()._reduce([torch.zeros(len(every)), *scores], [list(every), *channels])
            return whole

    return Criterion


class GradientSensitivity:
    """What the training loss would lose by a channel, as gradients of several batches tell.

    A channel is gone when no layer reads it, and the weights that read it are its own alone. Their part of the
    expansion is the loss's change for any coupling of layers, with no path counted twice.

    Args:
        kind: taylor is the mean over the batches of the squared first-order change, hessian that of half the
            squared products of weight and gradient.
        felt: name of a layer → (batches, inputs): products of weight and gradient, summed over what reads an input;
            for hessian half of their squares.
    """

    def __init__(self, kind: Kind, felt: Mapping[str, Tensor]) -> None:
        self.kind, self.felt = kind, felt

    def __call__(self, block: ChannelGroup) -> Tensor | None:
        """Return the importance of a block's channels; None where no layer reads them."""
        readers = [member for member in block.members if member.reads and member.name in self.felt]
        if not readers:
            return None
        total = torch.zeros(len(self.felt[readers[0].name]), block.channels)
        for member in readers:
            total.index_add_(1, member.channels, self.felt[member.name][:, member.places])
        return (total.square() if self.kind == "taylor" else total).mean(0)


def sensitivity(kind: Kind, network: nn.Module, size: InputSize, context: Context, images: int) -> GradientSensitivity:
    """Return the criterion, from gradients of about so many training images, drawn by the seed.

    Norms keep their statistics, so that the loss is that of the network as it is.

    Raises:
        FloatingPointError: a gradient is not finite.
    """
    device, settings = context.device, context.training
    copied = copy_network(network).to(device).requires_grad_(True).train()
    layers: dict[str, nn.Conv2d | nn.Linear] = {}
    for name, module in copied.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            layers[name] = module
    batches = Batches(
        context.data.splits["train"],
        context.detector.preprocess,
        size,
        batch=min(settings.batch_size, images),
        seed=context.seed,
        readers=settings.loader_threads,
    )
    felt: dict[str, list[Tensor]] = {name: [] for name in layers}
    rng = torch.random.fork_rng([] if device == "cpu" else [device])
    with shared_device(device), threads_of(settings, device), rng, torch.enable_grad():
        torch.manual_seed(context.seed)  # what a loss draws, such as regions to train on
        for pixels, truth in islice(batches.epoch(0), math.ceil(images / batches.batch)):
            copied.zero_grad(set_to_none=True)
            terms = context.detector.training_loss(copied, pixels.to(device), truth, settings.losses)
            sum(terms.values(), torch.zeros((), device=device)).backward()  # type: ignore[no-untyped-call]
            for name, layer in layers.items():
                felt[name].append(_felt(kind, layer).cpu())
    found = {name: torch.stack(rows) for name, rows in felt.items()}
    for name, rows in found.items():
        if not rows.isfinite().all():
            raise FloatingPointError(f"prune: importance {kind}: a gradient of layer {name} is not finite")
    return GradientSensitivity(kind, found)


def _felt(kind: Kind, layer: nn.Conv2d | nn.Linear) -> Tensor:
    """Return what one batch says of each input of a layer, (inputs,)."""
    weight = layer.weight.detach()
    product = torch.zeros_like(weight) if layer.weight.grad is None else weight * layer.weight.grad
    return by_input(layer, product if kind == "taylor" else product.square() / 2)


def by_input(layer: nn.Conv2d | nn.Linear, values: Tensor) -> Tensor:
    """Sum values of the shape of a layer's weight over what reads an input, (inputs,)."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return values.reshape(groups, len(values) // groups, values.shape[1], -1).sum((1, 3)).flatten()
