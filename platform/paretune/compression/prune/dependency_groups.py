"""Which channels of a network can only go together, and taking them out.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv:2301.12900): channels that are added to each
other, or that run through a depthwise convolution, go together, in every layer they run through. torch-pruning
finds them by a trace of the network; which of them go is decided elsewhere.
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
    """A layer that the channels of a block run through."""

    name: str
    """In the network."""
    layer: nn.Module
    """Of one of ``KNOWN_LAYERS``."""
    reads: bool
    """Whether the channels are its inputs; a depthwise convolution has them as outputs only."""
    places: Tensor
    """(N,) positions among the layer's inputs or outputs."""
    channels: Tensor
    """(N,) which channel of the block stands at each: a flattened map has a channel at many places."""
    share: float
    """Share of the layer's inputs or outputs that one channel of the block takes up."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of which each can only go from all layers at once."""

    name: str
    """Of the layer that they come from first."""
    channels: int
    groups: int
    """Of a grouped convolution: so many channels, one of each group, can only go at once."""
    members: tuple[GroupLayer, ...]
    traced: Any
    """What torch-pruning calls the group: what its criteria take."""


class DependencyGraph(tp.BasePruner):  # type: ignore[misc]
    """A traced network.

    Args:
        network: whose norms are not frozen, in eval mode; every parameter is made to ask for a gradient, since the
            tracer does not see others.
        detector: what is traced of it, and what must stay.
        size: of the input it is traced with.

    Raises:
        RuntimeError: nothing in it can be pruned.
    """

    def __init__(self, network: nn.Module, detector: Detector, size: InputSize) -> None:
        network.requires_grad_(True)
        with torch.enable_grad():
            super().__init__(
                detector.prune_view(network),
                (torch.zeros(1, 3, size.height, size.width),),  # a bare tensor would be taken apart along its batch
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
        """Take channels out of the network.

        Args:
            doomed: name of a block → its channels that go.
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
    """Trace a network for the block; what was frozen in it is frozen again after."""
    wanted = {name: parameter.requires_grad for name, parameter in network.named_parameters()}
    try:
        with thawed(network):
            yield DependencyGraph(network, detector, size)
    finally:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(wanted[name])
