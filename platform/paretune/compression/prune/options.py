"""The fields of the step ``prune``, separate from the step since ``run`` needs them too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from paretune.compression.base import Step


class PruneOptions(Step):
    """Fields of the step ``prune``."""

    renamed: ClassVar[Mapping[str, str]] = {"of": "budget"}

    ratio: float = Field(default=0.3, ge=0, lt=0.95)
    """Share of the budget to remove."""
    budget: Literal["channels", "flops", "latency"] = "channels"
    """Quantity that the ratio is a share of: channels, floating-point operations, or the latency of the float network
    on the recipe's runtime and the target (then two runs may differ, as measurements do)."""
    importance: Literal["l1", "l2", "lamp", "fpgm", "bn_scale", "random", "taylor", "hessian"] = "l1"
    """Criterion of a channel's importance: the size of its weights, or for taylor and hessian the change of the
    training loss without it."""
    images: int = Field(default=64, ge=1, le=100_000)
    """Number of training images for the gradients of taylor and hessian, drawn by the seed."""
    scope: Literal["local", "stage", "global"] = "local"
    """Channels that are compared. local: every layer loses the share; global: the whole network does, unimportant
    layers more; stage: every stage does (backbone stages, neck, head: modules with at most half of the layers)."""
    round_to: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = 8
    """Multiple that the remaining channels of a layer are rounded to, never to 0: odd widths make a network slower, not
    faster (16 suits AVX-512 CPUs, 8 small networks). auto measures which widths are fast on the recipe's runtime and
    the target."""
    rounds: int = Field(default=1, ge=1, le=100)
    """Number of rounds, each removing an equal share of what is left."""
    round_epochs: int = Field(default=2, ge=0, le=10_000)
    """Epochs of fine-tuning between two rounds; the last round has none after it."""
    learn_sparsity: int = Field(default=0, ge=0, le=10_000)
    """Epochs of training with group lasso before pruning, which makes weak channels weaker."""
    sparsity_weight: float = Field(default=1e-3, gt=0, le=10)
    """Weight of the group lasso in the training loss."""
