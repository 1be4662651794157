"""One pruning: how many channels for the share that is asked for, in one round or several with training between."""

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
from paretune.compression.prune.ranking import Ranking, ranked
from paretune.compression.prune.targets import Stopwatch, flops_left, layer_flops, nearest, stopwatch
from paretune.core.library_names import SENSITIVITIES
from paretune.core.model import Model
from paretune.networks.network_files import copy_network
from paretune.profiling.channel_rounding import measure_channel_rounding
from paretune.system.device_lock import shared_device

if TYPE_CHECKING:
    from paretune.compression.prune.options import PruneOptions

OFF = 0.03
"""Share of the cost by which a pruning may miss what was asked for without a note."""
UNMEASURED = 8
"""Multiple for ``round_to: auto`` where there is nothing to measure on."""


def prune_network(step: PruneOptions, dense: Model, context: Context) -> Model:
    """Return the pruned model with what is to be noted; parameters and operations are not counted anew.

    The dense network is traced, and is afterwards as it was.

    Raises:
        UserError: the criterion does not fit the network, or sparsity cannot be learnt here.
        RuntimeError: the network could not be traced, or the runtime does not run as asked for.
        FloatingPointError: a training diverged, or a gradient is not finite.
    """
    of, notes = step.budget, []
    multiple, told = _multiple(step, context)
    notes += told
    if of == "latency" and context.runtime is None:
        of = "flops"
        notes.append("prune: there is no runtime to measure latency on; ratio is taken of the flops")
    there = len(context.data.splits["train"])
    if step.importance in SENSITIVITIES and there < step.images:
        notes.append(f"prune: {step.importance} asks for {step.images} training images, and there are {there}")
    if step.learn_sparsity:
        dense = train_with_group_lasso(dense, context, epochs=step.learn_sparsity, weight=step.sparsity_weight)
    with stopwatch(dense, context) if of == "latency" else nullcontext() as watch:
        return _Pruning(step, dense, context, of, multiple, watch).done().noted(*notes)


def _multiple(step: PruneOptions, context: Context) -> tuple[int, list[str]]:
    """Return what widths are rounded to, and what is to be said of it."""
    if step.round_to != "auto":
        return step.round_to, []
    if context.runtime is None:
        return UNMEASURED, [f"prune: there is no runtime to measure on; round_to auto is {UNMEASURED}"]
    context.progress("prune: measuring which widths pay")
    found = measure_channel_rounding(context.runtime, context.target, context.cache)
    if found is None:
        name = context.runtime.name
        return UNMEASURED, [f"prune: single layers are not measured on {name}; round_to auto is {UNMEASURED}"]
    return found.multiple, [f"prune: round_to auto is {found.multiple}: {found}"]


@dataclass(frozen=True)
class _Pruning:
    """What does not change from round to round."""

    step: PruneOptions
    dense: Model
    context: Context
    of: Literal["channels", "flops", "latency"]
    multiple: int
    watch: Stopwatch | None

    def done(self) -> Model:
        """Prune in equal shares of what is left each time."""
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
                model = Finetune(epochs=self.step.round_epochs).apply(model, self.context)
        if abs(reached - left) <= OFF:
            return model
        missed = f"removed {1 - reached:.0%} of the {self.of} instead of {1 - left:.0%}"
        rounded = f"widths that are multiples of {self.multiple}"
        why = f"only {rounded} are kept" if self.of == "channels" else f"no {rounded} come nearer"
        return model.noted(f"prune: {missed}; {why}")

    def _ranking(self, model: Model, widths: Mapping[str, int] | None) -> Ranking:
        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        step, size, context = self.step, model.input_size, self.context
        with shared_device("cpu"):
            criterion = make_criterion(step.importance, model.network, size, context, step.images)
            with torch.random.fork_rng([]), trace_dependency_groups(model.network, context.detector, size) as coupling:
                torch.manual_seed(context.seed)
                return ranked(coupling.blocks, criterion, widths, step.scope, self.multiple)

    def _ratio(self, model: Model, ranking: Ranking, left: float) -> tuple[float, float]:
        """Return the ratio of channels for what is to be left of the cost, and what will be left of it."""
        if self.of == "channels":
            return 1 - left, ranking.left(1 - left)
        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        assert self.dense.network is not None  # noqa: S101 - as above
        size = model.input_size
        with shared_device("cpu"):
            now, dense = (layer_flops(network, size) for network in (model.network, self.dense.network))

        def by_flops(ratio: float) -> float:
            return flops_left(now, ranking.blocks, ranking.lowest(ratio)) / sum(dense.values())

        ratio = nearest(by_flops, left, guess=1 - left**0.5, steps=24, close=0.002)
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

        ratio = nearest(by_latency, left, guess=ratio, steps=6, close=0.02)
        return ratio, by_latency(ratio)

    def _without(self, model: Model, doomed: Mapping[str, Sequence[int]]) -> Model:
        assert model.network is not None  # noqa: S101 - as above
        with shared_device("cpu"):
            network = copy_network(model.network)
            with trace_dependency_groups(network, self.context.detector, model.input_size) as coupling:
                coupling.remove(doomed)
        return replace(model, network=network)
