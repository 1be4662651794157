"""Fine-tuning: the training loop of the baseline, from the weights that are there."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.model import Model


class Finetune(Step):
    """Train on, for fewer epochs; what is not said here is as in the training of the baseline."""

    name: ClassVar[str] = "finetune"

    epochs: int = Field(default=8, ge=0, le=100_000)
    """Passes over the training split."""
    lr: float | None = Field(default=None, gt=0, le=10)
    """Highest learning rate; half of the baseline's by default."""

    def apply(self, model: Model, context: Context) -> Model:
        """Train a copy of the network in this process, at the model's input size."""
        from paretune.detectors.structure import copy_network
        from paretune.training.loop import Epoch, train

        assert model.network is not None  # noqa: S101 - the recipe's formats meet
        history = (*model.history, self.name)
        if self.epochs == 0:
            return replace(model, history=history).noted("finetune changed nothing: 0 epochs")
        settings = context.training.model_copy(
            update={"epochs": self.epochs, "lr": self.lr or context.training.lr / 2, "seed": context.seed}
        )

        def tell(epoch: Epoch) -> None:
            context.progress(f"finetune {epoch}")

        result = train(
            copy_network(model.network).train(),
            context.detector,
            context.data.splits["train"],
            model.input_size,
            settings,
            device=context.device,
            on_epoch=tell,
        )
        return replace(model, network=result.network, history=history)
