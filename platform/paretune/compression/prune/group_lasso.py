"""Group lasso before pruning: training makes unimportant channels small, so that their removal costs little.

Fang et al., DepGraph, CVPR 2023 (arXiv:2301.12900), section 3.3: a group lasso over coupled channels, in which the
weakest channels of a block shrink most; in the spirit of network slimming (Liu et al., ICCV 2017, arXiv:1708.06519).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from paretune.compression.base import Context
from paretune.compression.prune.dependency_groups import ChannelGroup, GroupLayer, trace_dependency_groups
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.types import Annotations
from paretune.networks.layer_kinds import summed_by_input, summed_by_output
from paretune.networks.network_files import copy_network
from paretune.training.loop import Epoch, Options, train

STEEPNESS = 4.0
"""Exponent alpha of DepGraph: the weakest channel of a group shrinks 2 to this power as fast as the strongest."""


def energies(block: ChannelGroup) -> Tensor:
    """Return the sum of squares of all weights of each channel of a group, (channels,)."""
    total = torch.zeros(block.channels)
    for member in block.members:
        if isinstance(member.layer.weight, Tensor):  # a norm may have none
            own = _squares(member, member.layer.weight)
            places, channels = member.places.to(own.device), member.channels.to(own.device)
            total = total.to(own.device).index_add(0, channels, own[places])
    return total


def _squares(member: GroupLayer, weight: Tensor) -> Tensor:
    """Return the sum of squares of each of a layer's inputs or outputs."""
    summed = summed_by_input if member.reads else summed_by_output
    return summed(member.layer, weight.square())


@dataclass(frozen=True)
class GroupLasso:
    """Penalty on coupled channels, added to the training loss."""

    blocks: Sequence[ChannelGroup]
    weight: float

    def __call__(self) -> Tensor:
        """Return half the weighted sum of all energies, whose gradient is weight decay, stronger for weak channels."""
        return self.weight / 2 * torch.stack([self._term(energies(block)) for block in self.blocks]).sum()

    def _term(self, energy: Tensor) -> Tensor:
        with torch.no_grad():
            size = energy.sqrt()
            weakness = (size.max() - size) / (size.max() - size.min()).clamp_min(1e-12)
        return (2 ** (STEEPNESS * weakness) * energy).sum()


def train_with_group_lasso(model: Model, context: Context, *, epochs: int, weight: float) -> Model:
    """Train a copy of a network with the penalty, at half the baseline's learning rate.

    Zeros that an earlier step made stay zeros.

    Args:
        model: a torch network.
        context: training images and settings.
        epochs: passes over the training split.
        weight: of the penalty in the loss.

    Raises:
        UserError: the baseline was trained by several processes; this training runs in one.
        FloatingPointError: the training diverged.
    """
    if context.training.by_ray:
        raise UserError("prune: learn_sparsity trains in this process, without Ray: set training.workers to 1")
    network = copy_network(model.torch_network)
    with trace_dependency_groups(network, context.detector, model.input_size) as coupling:
        blocks = coupling.blocks
    penalty = GroupLasso([_trained(block, network) for block in blocks], weight)
    given = context.training
    settings = given.model_copy(update={"epochs": epochs, "lr": given.lr / 2, "seed": context.seed})

    def loss(forward: Callable[..., Any], images: Tensor, truth: Sequence[Annotations]) -> dict[str, Tensor]:
        terms = context.detector.training_loss(forward, images, truth, settings.losses)
        return {**terms, "sparsity": penalty()}

    def after(epoch: Epoch) -> None:
        context.progress(f"prune: sparsity {epoch}")

    result = train(
        network.train(),
        context.detector,
        context.data.splits["train"],
        model.input_size,
        settings,
        device=context.device,
        on_epoch=after,
        options=Options(
            loss=loss,
            val=context.data.splits.get("val"),
            keep_zeros="zeros" in model.weight_properties,
            thresholds=context.thresholds,
            on_step=context.on_step,
        ),
    )
    return replace(model, network=result.network)


def _trained(block: ChannelGroup, network: nn.Module) -> ChannelGroup:
    """Return a group without the layers that were in the network for the trace only: frozen norms are not trained."""
    there = set(network.modules())
    return replace(block, members=tuple(member for member in block.members if member.layer in there))
