"""Fine-tuning: the training loop of the baseline, from the weights that are there; with a teacher if wanted.

Distillation adds, besides the detector's own loss, how far answers and maps are from a larger network's: Hinton
et al., arXiv:1503.02531; Chen et al., NeurIPS 2017; Mehta and Ozturk, arXiv:1805.06361; Cao et al., PKD, NeurIPS
2022 (arXiv:2207.02039). What each compares stands in ``training/distillation.py`` and in each family's
``distillation.py``.
Quantization-aware training (``training/qat.py``) rounds as INT8 will, for a step ``quantize`` that follows.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from paretune.compression.base import Context, Step
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.runtimes.base import Runtime
from paretune.training.extras import TrainingExtras, train_with_extras
from paretune.training.settings import Distill, Training

if TYPE_CHECKING:
    from torch import nn


class Finetune(Step):
    """Train on, for fewer epochs; what is not said here is as in the training of the baseline."""

    name: ClassVar[str] = "finetune"
    locks: ClassVar[bool] = True

    epochs: int = Field(default=8, ge=0, le=100_000)
    """Passes over the training split."""
    lr_factor: float = Field(default=0.5, gt=0, le=100)
    """Highest learning rate, as a multiple of the baseline's: so that one space suits every detector."""
    distill: Distill | None = None
    """Learn from a teacher too: `{}` takes the baseline with the weights below."""
    qat: bool = False
    """Quantization-aware: weights and inputs of layers are rounded as scheme int8 of a step `quantize` will, which
    should follow."""

    @property
    def trains(self) -> bool:
        """It does, but for 0 epochs."""
        return self.epochs > 0

    def _apply(self, model: Model, context: Context) -> Model:
        """Train a copy of the network at the model's input size, with as many workers as the baseline.

        The state of the training is saved in the working folder: the same step on the same network goes
        on from there when it was killed, and ends with the same weights. The zeros of ``sparsify`` stay zeros.

        Raises:
            FloatingPointError: the training diverged.
            UserError: the saved state or the teacher cannot be read, or the cluster lacks the workers.
        """
        if self.epochs == 0:
            return model.unchanged("finetune changed nothing: 0 epochs")
        more = {"epochs": self.epochs, "lr": self.lr_factor * context.training.lr, "seed": context.seed}
        settings = context.training.model_copy(update=more)
        bits = _bits(context.runtime) if self.qat else None
        how = TrainingExtras(
            "zeros" in model.weight_properties, self._distill(context), bits, self.qat and _signed(context.runtime)
        )
        tune = _with_workers if settings.by_ray else _here
        folder = context.workdir / f"finetune-{_digest(model.torch_network)}-{how.key}"
        tuned = replace(model, network=tune(model, context, settings, how, folder))
        if how.qat_bits:
            tuned = tuned.noted(f"finetune: quantization-aware, {how.qat_bits} bits of a weight")
        undone = "clusters" in model.weight_properties
        return tuned.noted("finetune takes the clusters apart again: cluster should stand last") if undone else tuned

    @property
    def lacks_teacher(self) -> bool:
        """Tell whether it learns from the baseline, since no other teacher is named."""
        return self.distill is not None and self.distill.teacher is None

    def _distill(self, context: Context) -> Distill | None:
        """Return the distillation with its teacher, as other processes find it too."""
        if self.distill is None:
            return None
        teacher = self.distill.teacher or context.baseline
        told = None if teacher is None else str(Path(teacher).absolute())
        return self.distill.model_copy(update={"teacher": told})


def _signed(runtime: Runtime | None) -> bool:
    """Tell whether integers will be signed and symmetric, and weights of 8 bits on every CPU."""
    return runtime is not None and runtime.signed_int8


def _bits(runtime: Runtime | None) -> int:
    """Return how many bits the weights will have that are trained for."""
    if _signed(runtime):
        return 8
    if runtime is not None and runtime.accepts == "torch":
        from paretune.networks.int8_layers import LARGEST_WEIGHT

        return LARGEST_WEIGHT.bit_length() + 1
    from paretune.compression.quantize.onnx_quantizers import safe_bits

    return safe_bits()


def _here(model: Model, context: Context, settings: Training, how: TrainingExtras, folder: Path) -> nn.Module:
    """Train in this process."""
    from paretune.networks.network_files import copy_network
    from paretune.training.checkpoint import load_state, save_state
    from paretune.training.loop import Epoch, Options

    def after(epoch: Epoch) -> None:
        context.progress(f"finetune {epoch}")
        if epoch.number % settings.checkpoint_every == 0 or epoch.number == settings.epochs:
            save_state(epoch.state, folder)

    return train_with_extras(
        copy_network(model.torch_network).train(),
        context.detector,
        context.data,
        model.input_size,
        settings,
        how,
        device=context.device,
        on_epoch=after,
        options=Options(load_state(folder), thresholds=context.thresholds),
    ).network


def _with_workers(model: Model, context: Context, settings: Training, how: TrainingExtras, folder: Path) -> nn.Module:
    """Train on Ray workers: they open the dataset by themselves, and get the network as files."""
    from paretune.distributed.run_training import train_order
    from paretune.networks.network_files import load_network, save_network
    from paretune.training.training_job import TrainingJob

    if context.dataset is None or context.cache is None:
        raise UserError("training.workers: there is no dataset that other processes could open")
    save_network(model.torch_network, folder / "start")
    order = TrainingJob(
        detector=context.detector,
        dataset=context.dataset,
        cache=context.cache,
        size=model.input_size,
        settings=settings,
        folder=folder,
        start=folder / "start",
        how=how,
        thresholds=context.thresholds,
    )
    train_order(order, lambda line: context.progress(f"finetune {line}"))
    return load_network(context.detector, len(context.data.classes), folder)


def _digest(network: nn.Module) -> str:
    """Return what tells a network from every other: a hash of its tensors and their names (16 hex digits)."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]
