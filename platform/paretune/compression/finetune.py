"""Fine-tuning: the training loop of the baseline, started from the weights of the compressed network.

Distillation adds to the detector's loss the distance of outputs and feature maps from those of a larger network:
Hinton et al., arXiv:1503.02531; Chen et al., NeurIPS 2017; Mehta and Ozturk, arXiv:1805.06361; Cao et al., PKD,
NeurIPS 2022 (arXiv:2207.02039). ``training/distillation.py`` and each family's ``distillation.py`` compute the terms.
Quantization-aware training (``training/qat.py``) rounds like INT8, for a step ``quantize`` that follows.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from paretune.compression.base import Context, ContextPart, Step
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.runtimes.base import Runtime
from paretune.training.extras import TrainingExtras, train_with_extras
from paretune.training.settings import Distill, Training

if TYPE_CHECKING:
    from torch import nn


class Finetune(Step):
    """Train the compressed network for a few epochs, with the settings of the baseline's training."""

    name: ClassVar[str] = "finetune"
    locks: ClassVar[bool] = True

    epochs: int = Field(default=8, ge=0, le=100_000)
    """Passes over the training split."""
    lr_factor: float = Field(default=0.5, gt=0, le=100)
    """Highest learning rate, as a multiple of the baseline's, so that one search space suits every detector."""
    distill: Distill | None = None
    """Distillation from a teacher; `{}` takes the baseline and the default weights."""
    qat: bool = False
    """Train with weights and layer inputs rounded like scheme int8 of the step `quantize`, which should follow."""

    @property
    def trains(self) -> bool:
        """Return whether there are epochs to train."""
        return self.epochs > 0

    def uses(self) -> frozenset[ContextPart]:
        """Return the training and its data; the baseline as a teacher; what the bits of a weight depend on."""
        parts: set[ContextPart] = {"data", "training", "seed", "thresholds"}
        if self.distill is not None:
            parts.add("baseline")
        if self.qat:
            parts |= {"runtime", "machine"}
        return frozenset(parts)

    def other_networks(self) -> tuple[Path, ...]:
        """Return the teacher's folder, where one is named."""
        teacher = None if self.distill is None else self.distill.teacher
        return () if teacher is None else (Path(teacher),)

    def untrained(self) -> None:
        """Return None: training changes weights alone."""
        return

    def _apply(self, model: Model, context: Context) -> Model:
        """Train a copy of the network at the model's input size, with as many workers as the baseline.

        The state of the training is saved in the working folder: after an interruption the same step on the same
        network resumes there, and ends with the same weights. Zeros that an earlier step made stay zeros.

        Raises:
            FloatingPointError: the training diverged.
            UserError: the saved state or the teacher cannot be read, or the cluster lacks the workers.
        """
        if self.epochs == 0:
            return model.unchanged("finetune changed nothing: 0 epochs")
        more = {"epochs": self.epochs, "lr": self.lr_factor * context.training.lr, "seed": context.seed}
        settings = context.training.model_copy(update=more)
        bits = _bits(context.runtime) if self.qat else None
        extras = TrainingExtras(
            "zeros" in model.weight_properties, self._distill(context), bits, self.qat and _signed(context.runtime)
        )
        tune = _with_workers if settings.by_ray else _here
        folder = context.workdir / f"finetune-{_digest(model.torch_network)}-{extras.key}"
        tuned = replace(model, network=tune(model, context, settings, extras, folder))
        if extras.qat_bits:
            tuned = tuned.noted(f"finetune: quantization-aware, {extras.qat_bits} bits of a weight")
        undone = "clusters" in model.weight_properties
        return tuned.noted("finetune takes the clusters apart again: cluster should stand last") if undone else tuned

    @property
    def lacks_teacher(self) -> bool:
        """Return whether it learns from the baseline, since no other teacher is named."""
        return self.distill is not None and self.distill.teacher is None

    def _distill(self, context: Context) -> Distill | None:
        """Return the distillation with the absolute path of its teacher, which other processes can open."""
        if self.distill is None:
            return None
        teacher = self.distill.teacher or context.baseline
        place = None if teacher is None else str(Path(teacher).absolute())
        return self.distill.model_copy(update={"teacher": place})


def _signed(runtime: Runtime | None) -> bool:
    """Return whether the runtime reads signed, symmetric integers, with weights of 8 bits on every machine."""
    return runtime is not None and runtime.signed_int8


def _bits(runtime: Runtime | None) -> int:
    """Return the number of bits that weights will have after quantization."""
    if _signed(runtime):
        return 8
    if runtime is not None and runtime.accepts == "torch":
        from paretune.networks.int8_layers import LARGEST_WEIGHT

        return LARGEST_WEIGHT.bit_length() + 1
    from paretune.compression.quantize.onnx_quantizers import safe_bits

    return safe_bits()


def _here(model: Model, context: Context, settings: Training, extras: TrainingExtras, folder: Path) -> nn.Module:
    """Train in this process and return the trained network."""
    from paretune.networks.network_files import copy_network
    from paretune.training.checkpoint import load_state, save_state
    from paretune.training.loop import Epoch, Options

    rungs = context.rungs(settings.epochs)

    def after(epoch: Epoch) -> None:
        context.progress(f"finetune {epoch}")
        if epoch.number % settings.checkpoint_every == 0 or epoch.number in {settings.epochs, *rungs}:
            save_state(epoch.state, folder)
        known = {} if epoch.map is None else {"map": epoch.map}
        context.epoch_done(epoch.number, epoch.epochs, {"loss": sum(epoch.losses.values()), **known})

    return train_with_extras(
        copy_network(model.torch_network).train(),
        context.detector,
        context.data,
        model.input_size,
        settings,
        extras,
        device=context.device,
        on_epoch=after,
        options=Options(load_state(folder), thresholds=context.thresholds, rungs=rungs, on_step=context.on_step),
    ).network


def _with_workers(
    model: Model, context: Context, settings: Training, extras: TrainingExtras, folder: Path
) -> nn.Module:
    """Train on Ray workers, which open the dataset themselves and receive the network as files."""
    from paretune.distributed.run_training import train_order
    from paretune.networks.network_files import load_network, save_network
    from paretune.training.training_job import TrainingJob

    if context.dataset is None or context.cache is None:
        raise UserError("training.workers: there is no dataset that other processes could open")
    save_network(model.torch_network, folder / "start")
    job = TrainingJob(
        detector=context.detector,
        dataset=context.dataset,
        cache=context.cache,
        size=model.input_size,
        settings=settings,
        folder=folder,
        start=folder / "start",
        extras=extras,
        thresholds=context.thresholds,
    )
    train_order(job, lambda line: context.progress(f"finetune {line}"), context.on_step)
    return load_network(context.detector, len(context.classes), folder)


def _digest(network: nn.Module) -> str:
    """Return a hash of a network's tensors and their names (16 hex digits)."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
