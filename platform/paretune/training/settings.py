"""Training: the settings of one training run, as written in a job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from paretune.names import known_optimizer
from paretune.spec import Spec


class Training(Spec):
    """How a network is trained. Sizes are per device."""

    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training split."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Images in one optimizer step."""
    optimizer: Annotated[str, AfterValidator(known_optimizer)] = "AdamW"
    """A class of torch.optim, by name."""
    lr: float = Field(default=2e-3, gt=0, le=10)
    """Highest learning rate: reached after the warm-up, then lowered along a cosine to 1 % of it."""
    weight_decay: float = Field(default=0.02, ge=0, le=1)
    """Applied to weights of convolutions only, not to norms and biases."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs over which the learning rate rises from nothing."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the moving average of the weights that is kept as the result; 0 keeps the last weights."""
    amp: bool = False
    """Compute in bfloat16 where torch's autocast allows it."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Share of the training images that are mirrored."""
    clip: float = Field(default=10.0, ge=0)
    """Largest norm of the gradient; 0 leaves it as it is."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, order and augmentation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to train on; auto takes a GPU where there is one."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of torch on a CPU; 0 takes what there is: every core, or those that Ray gave the process."""
