"""The fields of the step ``prune``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from paretune.compression.base import Step


class PruneOptions(Step):
    """Fields of ``prune``; the step that carries them out inherits them."""

    renamed: ClassVar[Mapping[str, str]] = {"of": "budget"}

    ratio: float = Field(default=0.3, ge=0, lt=0.95)
    """Share of the budget to remove."""
    budget: Literal["channels", "flops", "latency"] = "channels"
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
