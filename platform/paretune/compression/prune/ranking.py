"""Choice of the channels to remove: the least important ones, so that the remaining widths run fast."""

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
"""Channel group → importance of its channels, (channels,); None keeps all of them."""


@dataclass(frozen=True)
class Ranking:
    """The channel groups of a network with the importance of their channels."""

    blocks: tuple[ChannelGroup, ...]
    """Groups that have scores."""
    scores: Mapping[str, Tensor]
    """Name of a group → importance of its removable units, (channels / groups,)."""
    widths: Mapping[str, int]
    """Name of a group → its channels before the first round, of which a ratio is a share."""
    scope: Scope
    """Channels that are compared with each other: those of a layer, of a stage, or all."""
    multiple: int
    """Multiple that the remaining widths are rounded to."""

    def lowest(self, ratio: float) -> dict[str, list[int]]:
        """Return the channels to remove for this share of all channels, by group."""
        doomed: dict[str, list[int]] = {}
        for blocks in self._compared():
            scores = [self.scores[block.name] for block in blocks]
            before = sum(self.widths[block.name] // block.groups for block in blocks)
            asked = max(0, sum(map(len, scores)) - int(before * (1 - ratio)))
            for block, count in zip(blocks, _counts(scores, asked), strict=True):
                doomed[block.name] = self._rounded(block, count)
        return doomed

    def left(self, ratio: float) -> float:
        """Return the share of the original channels that remains without ``lowest(ratio)``."""
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
        by_stage: dict[str, list[ChannelGroup]] = {}
        for block in self.blocks:
            by_stage.setdefault(stage_of[block.name], []).append(block)
        return by_stage.values()

    def _rounded(self, block: ChannelGroup, asked: int) -> list[int]:
        scores = self.scores[block.name]
        units = len(scores)
        count = channels_removed(asked, units, self.multiple // math.gcd(self.multiple, block.groups))
        chosen = torch.argsort(scores, stable=True)[:count].tolist()
        return sorted(unit + group * units for group in range(block.groups) for unit in chosen)


def rank_channels(
    blocks: Sequence[ChannelGroup], criterion: Criterion, widths: Mapping[str, int] | None, scope: Scope, multiple: int
) -> Ranking:
    """Return the channels with their scores; without ``widths`` the current ones are the original ones."""
    scores: dict[str, Tensor] = {}
    for block in blocks:
        importance = criterion(block)
        if importance is not None:
            scores[block.name] = importance.detach().cpu().view(block.groups, -1).mean(0)
    known = {block.name: block.channels for block in blocks} if widths is None else widths
    return Ranking(tuple(block for block in blocks if block.name in scores), scores, known, scope, multiple)


def channels_removed(asked: int, channels: int, multiple: int) -> int:
    """Return the number of channels to remove: nearest to ``asked`` with a multiple of ``multiple`` left, not 0."""
    if asked == 0:
        return 0
    left = max(1, (channels - asked + multiple // 2) // multiple) * multiple
    return max(0, channels - left)


def stages(names: Sequence[str]) -> dict[str, str]:
    """Return the stage of every layer: the largest module around it that holds at most half of the layers.

    Stages are backbone, neck and head where these are of similar size; a backbone with most of the layers is divided
    into its own stages.
    """
    depth = dict.fromkeys(names, 1)
    while True:
        stage_of = {name: ".".join(name.split(".")[: depth[name]]) for name in names}
        sizes = Counter(stage_of.values())
        large = [name for name in names if 2 * sizes[stage_of[name]] > len(names) and depth[name] <= name.count(".")]
        if not large:
            return stage_of
        for name in large:
            depth[name] += 1


def _counts(scores: Sequence[Tensor], asked: int) -> list[int]:
    """Return how many of the ``asked`` lowest scores of all parts lie in each part."""
    lowest = torch.argsort(torch.cat(list(scores)), stable=True)[:asked]
    part = torch.repeat_interleave(torch.tensor([len(own) for own in scores]))
    return torch.bincount(part[lowest], minlength=len(scores)).tolist()
