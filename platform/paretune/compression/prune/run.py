"""A pruning in one round or several: the number of channels for the requested share, with training in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch

from paretune.compression.base import Context
from paretune.compression.finetune import Finetune
from paretune.compression.prune.criteria import make_criterion
from paretune.compression.prune.dependency_groups import trace_dependency_groups
from paretune.compression.prune.group_lasso import train_with_group_lasso
from paretune.compression.prune.ranking import Ranking, rank_channels
from paretune.compression.prune.targets import Stopwatch, find_ratio, flops_by_layer, flops_left, stopwatch
from paretune.core.library_names import SENSITIVITIES
from paretune.core.model import Model
from paretune.networks.network_files import copy_network
from paretune.profiling.channel_rounding import measure_channel_rounding
from paretune.system.device_lock import shared_device

if TYPE_CHECKING:
    from paretune.compression.prune.options import PruneOptions

OFF = 0.03
"""Share of the cost by which a pruning may miss the request without a note."""
UNMEASURED = 8
"""Multiple for ``round_to: auto`` where nothing can be measured."""


def prune_network(step: PruneOptions, dense: Model, context: Context) -> Model:
    """Return the pruned model with its notes; parameters and operations are not counted here.

    The dense network is traced, and is unchanged afterwards.

    Raises:
        UserError: the criterion does not fit the network, or sparsity cannot be learnt here.
        RuntimeError: the network could not be traced, or the runtime does not run as asked for.
        FloatingPointError: a training diverged, or a gradient is not finite.
    """
    of, notes = step.budget, []
    multiple, measured = _multiple(step, context)
    notes += measured
    if of == "latency" and context.runtime is None:
        of = "flops"
        notes.append("prune: there is no runtime to measure latency on; ratio is taken of the flops")
    if step.importance in SENSITIVITIES and (available := len(context.data.splits["train"])) < step.images:
        notes.append(f"prune: {step.importance} asks for {step.images} training images, and there are {available}")
    if step.learn_sparsity:
        dense = train_with_group_lasso(dense, context, epochs=step.learn_sparsity, weight=step.sparsity_weight)
    with stopwatch(dense, context) if of == "latency" else nullcontext() as watch:
        return _Pruning(step, dense, context, of, multiple, watch).run().noted(*notes)


def _multiple(step: PruneOptions, context: Context) -> tuple[int, list[str]]:
    """Return the multiple that widths are rounded to, and notes on its measurement."""
    if step.round_to != "auto":
        return step.round_to, []
    if context.runtime is None:
        return UNMEASURED, [f"prune: there is no runtime to measure on; round_to auto is {UNMEASURED}"]
    context.progress("prune: measuring which widths pay")
    rounding = measure_channel_rounding(context.runtime, context.target, context.cache)
    if rounding is None:
        name = context.runtime.name
        return UNMEASURED, [f"prune: single layers are not measured on {name}; round_to auto is {UNMEASURED}"]
    return rounding.multiple, [f"prune: round_to auto is {rounding.multiple}: {rounding}"]


@dataclass(frozen=True)
class _Pruning:
    """The constants of a pruning, equal in all rounds."""

    step: PruneOptions
    dense: Model
    context: Context
    of: Literal["channels", "flops", "latency"]
    multiple: int
    watch: Stopwatch | None

    def run(self) -> Model:
        """Return the pruned model after all rounds, each of which removes an equal share of what is left."""
        model, widths, rounds = self.dense, None, self.step.rounds
        left = reached = 1.0
        for number in range(1, rounds + 1):
            left = (1 - self.step.ratio) ** (number / rounds)
            ranking = self._ranking(model, widths)
            widths = ranking.widths
            ratio, reached = self._ratio(model, ranking, left)
            doomed = ranking.lowest(ratio)
            model = self._without(model, doomed)
            if number < rounds and self.step.round_epochs and any(doomed.values()):
                self.context.progress(f"prune: fine-tuning after round {number} of {rounds}")
                model = Finetune(epochs=self.step.round_epochs).apply(model, self.context.without_rungs())
        if abs(reached - left) <= OFF:
            return model
        missed = f"removed {1 - reached:.0%} of the {self.of} instead of {1 - left:.0%}"
        rounded = f"widths that are multiples of {self.multiple}"
        why = f"only {rounded} are kept" if self.of == "channels" else f"no {rounded} come nearer"
        return model.noted(f"prune: {missed}; {why}")

    def _ranking(self, model: Model, widths: Mapping[str, int] | None) -> Ranking:
        step, size, context, network = self.step, model.input_size, self.context, model.torch_network
        with shared_device("cpu"):
            criterion = make_criterion(step.importance, network, size, context, step.images)
            with (
                torch.random.fork_rng([]),
                trace_dependency_groups(network, context.detector, size) as coupling,
            ):
                torch.manual_seed(context.seed)
                return rank_channels(coupling.blocks, criterion, widths, step.scope, self.multiple)

    def _ratio(self, model: Model, ranking: Ranking, left: float) -> tuple[float, float]:
        """Return the ratio of channels for the cost that should remain, and the cost that will remain."""
        if self.of == "channels":
            return 1 - left, ranking.left(1 - left)
        size = model.input_size
        with shared_device("cpu"):
            now, dense = (flops_by_layer(network, size) for network in (model.torch_network, self.dense.torch_network))

        def by_flops(ratio: float) -> float:
            return flops_left(now, ranking.blocks, ranking.lowest(ratio)) / sum(dense.values())

        ratio = find_ratio(by_flops, left, guess=1 - left**0.5, steps=24, close=0.002)
        if self.watch is None:
            return ratio, by_flops(ratio)
        watch, seen = self.watch, dict[tuple[int, ...], float]()

        def by_latency(ratio: float) -> float:
            doomed = ranking.lowest(ratio)
            widths = tuple(map(len, doomed.values()))
            if widths not in seen:
                seen[widths] = watch(self._without(model, doomed))
                self.context.progress(f"prune: {seen[widths]:.0%} of the latency without {ratio:.0%} of the channels")
            return seen[widths]

        ratio = find_ratio(by_latency, left, guess=ratio, steps=6, close=0.02)
        return ratio, by_latency(ratio)

    def _without(self, model: Model, doomed: Mapping[str, Sequence[int]]) -> Model:
        with shared_device("cpu"):
            network = copy_network(model.torch_network)
            with trace_dependency_groups(network, self.context.detector, model.input_size) as coupling:
                coupling.remove(doomed)
        return replace(model, network=network)
