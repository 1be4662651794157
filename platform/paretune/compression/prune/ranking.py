"""Which channels go: the least important ones, so many that the widths that are left run fast."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paretune.compression.prune.dependency_groups import ChannelGroup

Scope = Literal["local", "stage", "global"]
Criterion = Callable[[ChannelGroup], Tensor | None]
"""Block → importance of its channels, (channels,); None where it says nothing about them, and they stay."""


@dataclass(frozen=True)
class Ranking:
    """The blocks of a network with the importance of their channels."""

    blocks: tuple[ChannelGroup, ...]
    """Those that have scores."""
    scores: Mapping[str, Tensor]
    """Name of a block → importance of what can only go at once, (channels / groups,)."""
    widths: Mapping[str, int]
    """Name of a block → its channels before anything was pruned: what a ratio is a share of."""
    scope: Scope
    """Whose channels are compared with each other: a layer's, a stage's or all."""
    multiple: int
    """What widths that are left are rounded to."""

    def lowest(self, ratio: float) -> dict[str, list[int]]:
        """Return, by block, the channels without which this share of all channels is gone."""
        doomed: dict[str, list[int]] = {}
        for blocks in self._compared():
            scores = [self.scores[block.name] for block in blocks]
            before = sum(self.widths[block.name] // block.groups for block in blocks)
            asked = max(0, sum(map(len, scores)) - int(before * (1 - ratio)))
            for block, count in zip(blocks, _counts(scores, asked), strict=True):
                doomed[block.name] = self._rounded(block, count)
        return doomed

    def left(self, ratio: float) -> float:
        """Return the share of the channels before anything was pruned that is left without ``lowest(ratio)``."""
        doomed = self.lowest(ratio)
        kept = sum(block.channels - len(doomed[block.name]) for block in self.blocks)
        before = sum(self.widths[block.name] for block in self.blocks)
        return kept / before if before else 1.0

    def _compared(self) -> Iterable[list[ChannelGroup]]:
        if self.scope == "local":
            return [[block] for block in self.blocks]
        if self.scope == "global":
            return [list(self.blocks)]
        stage_of = stages([block.name for block in self.blocks])
        found: dict[str, list[ChannelGroup]] = {}
        for block in self.blocks:
            found.setdefault(stage_of[block.name], []).append(block)
        return found.values()

    def _rounded(self, block: ChannelGroup, asked: int) -> list[int]:
        scores = self.scores[block.name]
        units = len(scores)
        count = channels_removed(asked, units, self.multiple // math.gcd(self.multiple, block.groups))
        chosen = torch.argsort(scores, stable=True)[:count].tolist()
        return sorted(unit + group * units for group in range(block.groups) for unit in chosen)


def ranked(
    blocks: Sequence[ChannelGroup], criterion: Criterion, widths: Mapping[str, int] | None, scope: Scope, multiple: int
) -> Ranking:
    """Score the channels of blocks; widths of None are those that the blocks have."""
    scores: dict[str, Tensor] = {}
    for block in blocks:
        found = criterion(block)
        if found is not None:
            scores[block.name] = found.detach().cpu().view(block.groups, -1).mean(0)
    known = {block.name: block.channels for block in blocks} if widths is None else widths
    return Ranking(tuple(block for block in blocks if block.name in scores), scores, known, scope, multiple)


def channels_removed(asked: int, channels: int, multiple: int) -> int:
    """Return how many of ``channels`` go, when ``asked`` should: the nearest to it that leaves a multiple, not 0."""
    if asked == 0:
        return 0
    left = max(1, (channels - asked + multiple // 2) // multiple) * multiple
    return max(0, channels - left)


def stages(names: Sequence[str]) -> dict[str, str]:
    """Return the stage of every layer: the largest module around it that holds at most half of the layers.

    Backbone, neck and head where these are of a size; a backbone with most of the layers falls into its own stages.
    """
    depth = dict.fromkeys(names, 1)
    while True:
        found = {name: ".".join(name.split(".")[: depth[name]]) for name in names}
        sizes = Counter(found.values())
        large = [name for name in names if 2 * sizes[found[name]] > len(names) and depth[name] <= name.count(".")]
        if not large:
            return found
        for name in large:
            depth[name] += 1


def _counts(scores: Sequence[Tensor], asked: int) -> list[int]:
    """Return how many of the lowest scores, of all together, are in each part."""
    lowest = torch.argsort(torch.cat(list(scores)), stable=True)[:asked]
    part = torch.repeat_interleave(torch.tensor([len(own) for own in scores]))
    return torch.bincount(part[lowest], minlength=len(scores)).tolist()
