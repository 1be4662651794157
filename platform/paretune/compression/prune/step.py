"""Structured pruning: whole channels are removed, which makes the network faster on every runtime.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv:2301.12900): coupled channels (residuals,
concatenations, depthwise convolutions) are removed together. ``criteria`` names the papers of the criteria,
``group_lasso`` those of sparsity learnt before pruning.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

from paretune.compression.base import Context, ContextPart
from paretune.compression.prune.options import PruneOptions
from paretune.core.library_names import SENSITIVITIES
from paretune.core.model import Model


class Prune(PruneOptions):
    """Remove the least important channels of the whole network."""

    name: ClassVar[str] = "prune"
    locks: ClassVar[bool] = True

    libraries: ClassVar[tuple[str, ...]] = ("torch", "torchvision", "torch-pruning")

    def uses(self) -> frozenset[ContextPart]:
        """Return what the criterion, the training between rounds, and the measured latency depend on."""
        parts: set[ContextPart] = {"seed"}
        if self.importance in SENSITIVITIES:
            parts |= {"data", "training"}
        if self.trains:
            parts |= {"data", "training", "thresholds"}
        if self.budget == "latency" or self.round_to == "auto":
            parts |= {"data", "runtime", "target", "machine"}
        return frozenset(parts)

    @property
    def trains(self) -> bool:
        """Return whether it learns sparsity, or fine-tunes between rounds."""
        return self.ratio > 0 and bool(self.learn_sparsity or (self.rounds > 1 and self.round_epochs))

    def untrained(self) -> Self:
        """Return the step without training before it and between its rounds."""
        return self if not self.trains else self.model_copy(update={"learn_sparsity": 0, "round_epochs": 0})

    def _apply(self, model: Model, context: Context) -> Model:
        """Prune a copy of the network.

        Raises:
            UserError: the criterion does not fit the network, or sparsity cannot be learnt with several workers.
            RuntimeError: the network could not be traced, or the runtime does not run as asked for.
            FloatingPointError: a training diverged, or a gradient is not finite.
        """
        from paretune.compression.prune.run import prune_network
        from paretune.networks.network_files import copy_network, parameters_of

        copied = replace(model, network=copy_network(model.torch_network).eval())
        pruned = prune_network(self, copied, context) if self.ratio > 0 else copied
        if parameters_of(pruned.torch_network) < parameters_of(model.torch_network):
            return pruned
        request = f"ratio {self.ratio:g} of the {self.budget} with round_to {self.round_to}"
        if self.ratio > 0 and self.learn_sparsity:
            return pruned.noted(f"prune removed no channels: {request}")
        return pruned.unchanged(f"prune changed nothing: {request}")
