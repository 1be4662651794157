"""Groups of coupled channels, which can only be removed together, and their removal.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv:2301.12900): channels that are added to each
other, or that pass a depthwise convolution, are removed together, in every layer that they pass. torch-pruning finds
the groups by tracing the network; ``ranking`` chooses the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from paretune.core.types import InputSize
from paretune.detectors.base import Detector
from paretune.networks.frozen_batchnorm import thawed
from paretune.networks.layer_kinds import KNOWN_LAYERS


@dataclass(frozen=True)
class GroupLayer:
    """A layer that the channels of a group pass."""

    name: str
    """Qualified name in the network."""
    layer: nn.Module
    """The layer, of one of ``KNOWN_LAYERS``."""
    reads: bool
    """True if the channels are its inputs; those of a depthwise convolution count as outputs."""
    places: Tensor
    """(N,) positions among the layer's inputs or outputs."""
    channels: Tensor
    """(N,) channel of the group at each position; a flattened map has a channel at many positions."""
    share: float
    """Share of the layer's inputs or outputs that belongs to one channel of the group."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels, each of which can only be removed from all members at once."""

    name: str
    """Name of the layer that makes the channels."""
    channels: int
    groups: int
    """Groups of a grouped convolution: one channel of each can only be removed at once."""
    members: tuple[GroupLayer, ...]
    traced: Any
    """Group object of torch-pruning, the argument of its criteria."""


class DependencyGraph(tp.BasePruner):  # type: ignore[misc]
    """The coupled channels of a traced network.

    Args:
        network: without frozen norms, in eval mode; every parameter is set to require a gradient, since the tracer
            sees no others.
        detector: names the part that is traced and the layers that stay.
        size: of the input that it is traced with.

    Raises:
        RuntimeError: no layer of it can be pruned.
    """

    def __init__(self, network: nn.Module, detector: Detector, size: InputSize) -> None:
        network.requires_grad_(True)
        with torch.enable_grad():
            super().__init__(
                detector.prune_view(network),
                (torch.zeros(1, 3, size.height, size.width),),  # a bare tensor would be split along its batch
                importance=None,
                ignored_layers=detector.protected(network),
                unwrapped_parameters=detector.lone_parameters(network),
                in_channel_groups={},  # the defaults are shared between calls, and changed
                out_channel_groups={},
                num_heads={},
            )
        self._names = {module: name for name, module in network.named_modules()}
        groups = self.DG.get_all_groups(self.ignored_layers, self.root_module_types)
        self.blocks: list[ChannelGroup] = [self._block(group) for group in groups]
        if not self.blocks:
            raise RuntimeError("prune: no prunable layer was traced in the network")

    def remove(self, doomed: Mapping[str, Sequence[int]]) -> None:
        """Remove channels from the network.

        Args:
            doomed: name of a group → the channels to remove.
        """
        for block in self.blocks:
            if channels := list(doomed.get(block.name, ())):
                root = block.traced[0].dep
                self.DG.get_pruning_group(root.target.module, root.handler, channels).prune()

    def _block(self, group: Any) -> ChannelGroup:
        first = group[0]
        members = tuple(self._member(item) for item in group if isinstance(item.dep.target.module, KNOWN_LAYERS))
        return ChannelGroup(
            name=self._names[first.dep.target.module],
            channels=len(first.idxs),
            groups=self._get_channel_groups(group),
            members=members,
            traced=group,
        )

    def _member(self, item: Any) -> GroupLayer:
        layer = item.dep.target.module
        reads = not self.DG.is_out_channel_pruning_fn(item.dep.handler)
        width = self.DG.get_in_channels(layer) if reads else self.DG.get_out_channels(layer)
        return GroupLayer(
            name=self._names[layer],
            layer=layer,
            reads=reads,
            places=torch.tensor(item.idxs),
            channels=torch.tensor(item.root_idxs),
            share=len(item.idxs) / (len(set(item.root_idxs)) * width),
        )


@contextmanager
def trace_dependency_groups(network: nn.Module, detector: Detector, size: InputSize) -> Iterator[DependencyGraph]:
    """Trace a network for the context; parameters and norms that were frozen are frozen again at its end."""
    required = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    try:
        with thawed(network):
            yield DependencyGraph(network, detector, size)
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(required[name])
