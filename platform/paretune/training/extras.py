"""Additions to a training: zeros that are kept, a teacher, and layers rounded like INT8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from paretune.core.spec import fingerprint
from paretune.core.types import Data, InputSize
from paretune.detectors.base import Detector
from paretune.training.settings import Distill, Training

if TYPE_CHECKING:
    from torch import nn

    from paretune.training.loop import Epoch, Options, TrainResult


@dataclass(frozen=True)
class TrainingExtras:
    """Additions to a training, as plain data for other processes."""

    keep_zeros: bool = False
    """True if weights that are zero before the training stay zero."""
    distill: Distill | None = None
    """Distillation from a teacher, whose folder has the same path on all machines."""
    qat_bits: int | None = None
    """Bits of a weight in quantization-aware training; None trains float layers."""
    qat_signed: bool = False
    """True if inputs are rounded to signed integers, symmetric about 0, as for TensorRT."""

    @property
    def key(self) -> str:
        """Return a fingerprint of the additions."""
        distill = None if self.distill is None else self.distill.tree()
        return fingerprint(self.keep_zeros, distill, self.qat_bits, self.qat_signed)


def train_with_extras(  # noqa: PLR0913 - the arguments of loop.train, and two more
    network: nn.Module,
    detector: Detector,
    data: Data,
    size: InputSize,
    settings: Training,
    extras: TrainingExtras,
    *,
    device: str,
    on_epoch: Callable[[Epoch], None],
    options: Options,
) -> TrainResult:
    """Train a network in place, and return it as a float network; with no epochs it stays unchanged.

    Args:
        network: of the detector, on the CPU.
        detector: preprocessing and loss.
        data: with the training split, and the validation split if the settings need it.
        size: of the network's input.
        settings: see ``loop.train``.
        extras: additions to the settings.
        device: torch device.
        on_epoch: called after each epoch, on every worker.
        options: saved state and worker; the other options are set here.

    Raises:
        FloatingPointError: the training diverged.
        UserError: the teacher cannot be read, or the state belongs to another training.
    """
    from paretune.training.distillation import unwrap_student, with_teacher
    from paretune.training.loop import TrainResult, train
    from paretune.training.qat import with_rounding, without_rounding

    if not settings.epochs:
        return TrainResult(network.eval(), (), 0.0)
    split = data.splits["train"]
    if extras.qat_bits is not None:
        network = with_rounding(network, detector, extras.qat_bits, split, size, signed=extras.qat_signed)
    student, loss = with_teacher(network, detector, len(data.classes), size, settings, extras.distill, device)
    options = replace(options, loss=loss, val=data.splits.get("val"), keep_zeros=extras.keep_zeros)
    result = train(student, detector, split, size, settings, device=device, on_epoch=on_epoch, options=options)
    return replace(result, network=without_rounding(unwrap_student(result.network)))
