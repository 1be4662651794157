"""What a training does besides following its settings: zeros kept, a teacher, layers rounded as INT8 will be."""

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
    """Plain data, for other processes too."""

    keep_zeros: bool = False
    """Leave weights at zero that are zero in the network given."""
    distill: Distill | None = None
    """Learn from a teacher, whose folder is the same place on all machines."""
    qat_bits: int | None = None
    """Round to INT8 with so many bits of a weight; None trains float layers."""
    qat_signed: bool = False
    """Round inputs to signed integers, symmetric about 0, as TensorRT reads them."""

    @property
    def key(self) -> str:
        """Return a name that no other way has."""
        distill = None if self.distill is None else self.distill.tree()
        return fingerprint(self.keep_zeros, distill, self.qat_bits, self.qat_signed)


def train_with_extras(  # noqa: PLR0913 - those of loop.train, and two more
    network: nn.Module,
    detector: Detector,
    data: Data,
    size: InputSize,
    settings: Training,
    how: TrainingExtras,
    *,
    device: str,
    on_epoch: Callable[[Epoch], None],
    options: Options,
) -> TrainResult:
    """Train a network; it is changed, and returned as the float network it was. No epochs leave it as it is.

    Args:
        network: of the detector, on the CPU.
        detector: preprocessing and loss.
        data: what is trained and, if the settings ask for it, validated on.
        size: of the network's input.
        settings: as of ``loop.train``,
        how: and what comes on top.
        device: torch device.
        on_epoch: called after each epoch, on every worker.
        options: where to go on, and which worker this is; the rest is filled in.

    Raises:
        FloatingPointError: the training diverged.
        UserError: the teacher cannot be read, or the state is another training's.
    """
    from paretune.training.distillation import unwrap_student, with_teacher
    from paretune.training.loop import TrainResult, train
    from paretune.training.qat import with_rounding, without_rounding

    if not settings.epochs:
        return TrainResult(network.eval(), (), 0.0)
    split = data.splits["train"]
    if how.qat_bits is not None:
        network = with_rounding(network, detector, how.qat_bits, split, size, signed=how.qat_signed)
    student, loss = with_teacher(network, detector, len(data.classes), size, settings, how.distill, device)
    options = replace(options, loss=loss, val=data.splits.get("val"), keep_zeros=how.keep_zeros)
    result = train(student, detector, split, size, settings, device=device, on_epoch=on_epoch, options=options)
    return replace(result, network=without_rounding(unwrap_student(result.network)))
