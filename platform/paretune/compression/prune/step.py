"""Structured pruning: whole channels go, so every runtime is faster without knowing of it.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023 (arXiv:2301.12900): channels that are
coupled (residuals, concatenations, depthwise convolutions) go together. The papers of the criteria are named in
``pruning_criteria``, that of sparsity learnt before pruning in ``pruning_sparsity``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.core.model import Model


class Prune(Step):
    """Remove the least important channels of the whole network."""

    name: ClassVar[str] = "prune"
    locks: ClassVar[bool] = True

    ratio: float = Field(default=0.3, ge=0, lt=0.95)
    """Share to remove of what `of` names."""
    of: Literal["channels", "flops", "latency"] = "channels"
    """What the ratio is a share of: channels, floating-point operations, or the latency of the float network measured
    on the recipe's runtime and the target (then two runs may differ by what is measured)."""
    importance: Literal["l1", "l2", "lamp", "fpgm", "bn_scale", "random", "taylor", "hessian"] = "l1"
    """What makes a channel important: the size of its weights, or by taylor and hessian what the training loss
    would lose by it."""
    images: int = Field(default=64, ge=1, le=100_000)
    """Training images from which taylor and hessian take gradients, drawn by the seed."""
    scope: Literal["local", "stage", "global"] = "local"
    """local: every layer loses the share; global: the network does, its least important layers more; stage: every
    stage does (backbone stages, neck, head: modules with at most half of the layers)."""
    round_to: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = 8
    """Channels that are left are the nearest multiple of this, and never none: odd widths make a network
    slower, not faster (16 suits AVX-512 CPUs, 8 small networks). auto measures which widths pay on the recipe's
    runtime and the target."""
    rounds: int = Field(default=1, ge=1, le=100)
    """Prune in so many rounds, each an equal share of what is left."""
    round_epochs: int = Field(default=2, ge=0, le=10_000)
    """Epochs of fine-tuning between two rounds; none follow the last."""
    learn_sparsity: int = Field(default=0, ge=0, le=10_000)
    """Epochs of training before, in which weak channels are made weaker (group lasso)."""
    sparsity_weight: float = Field(default=1e-3, gt=0, le=10)
    """Weight of the group lasso in the loss of that training."""

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
        from paretune.compression.prune.run import pruned
        from paretune.networks.network_files import copy_network, count

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        copied = replace(model, network=copy_network(model.network).eval())
        made = pruned(self, copied, context) if self.ratio > 0 else copied
        assert made.network is not None  # noqa: S101 - as above
        params, flops = count(made.network, model.input_size)
        made = replace(made, params=params, flops=flops, history=(*model.history, self.name))
        if params < sum(parameter.numel() for parameter in model.network.parameters()):
            return made
        done = "removed no channels" if self.ratio > 0 and self.learn_sparsity else "changed nothing"
        return made.noted(f"prune {done}: ratio {self.ratio:g} of the {self.of} with round_to {self.round_to}")
