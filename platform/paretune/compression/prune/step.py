"""Structured pruning: whole channels go, so every runtime is faster without knowing of it.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv:2301.12900): channels that are
coupled (residuals, concatenations, depthwise convolutions) go together. The papers of the criteria are named in
``pruning_criteria``, that of sparsity learnt before pruning in ``pruning_sparsity``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from paretune.compression.base import Context
from paretune.compression.prune.options import PruneOptions
from paretune.core.model import Model


class Prune(PruneOptions):
    """Remove the least important channels of the whole network."""

    name: ClassVar[str] = "prune"
    locks: ClassVar[bool] = True

    @property
    def trains(self) -> bool:
        """Where it learns sparsity, or fine-tunes between rounds."""
        return self.ratio > 0 and bool(self.learn_sparsity or (self.rounds > 1 and self.round_epochs))

    def apply(self, model: Model, context: Context) -> Model:
        """Prune a copy of the network.

        Raises:
            UserError: the criterion does not fit the network, or sparsity cannot be learnt with several workers.
            RuntimeError: the network could not be traced, or the runtime does not run as asked for.
            FloatingPointError: a training diverged, or a gradient is not finite.
        """
        from paretune.compression.prune.run import prune_network
        from paretune.networks.network_files import copy_network, count

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        copied = replace(model, network=copy_network(model.network).eval())
        made = prune_network(self, copied, context) if self.ratio > 0 else copied
        assert made.network is not None  # noqa: S101 - as above
        params, flops = count(made.network, model.input_size)
        made = replace(made, params=params, flops=flops, history=(*model.history, self.name))
        if params < sum(parameter.numel() for parameter in model.network.parameters()):
            return made
        done = "removed no channels" if self.ratio > 0 and self.learn_sparsity else "changed nothing"
        return made.noted(f"prune {done}: ratio {self.ratio:g} of the {self.budget} with round_to {self.round_to}")
