"""Fine-tuning: the training loop of the baseline, from the weights that are there."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.model import Model

if TYPE_CHECKING:
    from torch import nn


class Finetune(Step):
    """Train on, for fewer epochs; what is not said here is as in the training of the baseline."""

    name: ClassVar[str] = "finetune"

    epochs: int = Field(default=8, ge=0, le=100_000)
    """Passes over the training split."""
    lr: float | None = Field(default=None, gt=0, le=10)
    """Highest learning rate; half of the baseline's by default."""

    def apply(self, model: Model, context: Context) -> Model:
        """Train a copy of the network in this process, at the model's input size.

        After each epoch the state of the training is saved in the working folder: the same step on the
        same network goes on from there when it was killed, and ends with the same weights.

        Raises:
            FloatingPointError: the training diverged.
            UserError: the saved state cannot be read.
        """
        from paretune.detectors.structure import copy_network
        from paretune.training.loop import Epoch, Options, train
        from paretune.training.state import load_state, save_state

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        history = (*model.history, self.name)
        if self.epochs == 0:
            return replace(model, history=history).noted("finetune changed nothing: 0 epochs")
        lr = context.training.lr / 2 if self.lr is None else self.lr
        settings = context.training.model_copy(update={"epochs": self.epochs, "lr": lr, "seed": context.seed})
        folder = context.workdir / f"finetune-{_digest(model.network)}"

        def after(epoch: Epoch) -> None:
            context.progress(f"finetune {epoch}")
            save_state(epoch.state, folder)

        result = train(
            copy_network(model.network).train(),
            context.detector,
            context.data.splits["train"],
            model.input_size,
            settings,
            device=context.device,
            on_epoch=after,
            options=Options(resume=load_state(folder)),
        )
        return replace(model, network=result.network, history=history)


def _digest(network: nn.Module) -> str:
    """Return what tells a network from every other: a hash of its tensors and their names (16 hex digits)."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
