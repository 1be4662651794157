"""Distillation: a training loss that also compares the network with its teacher.

The detector compares the outputs (``Detector.distillation_loss``). The feature maps that feed the heads are compared
by their correlation, which does not depend on their scale: Cao et al., PKD, NeurIPS 2022 (arXiv:2207.02039). If a
pruned network has fewer channels, a 1x1 convolution between the maps is trained with it and discarded afterwards:
Romero et al., FitNets, ICLR 2015 (arXiv:1412.6550). A teacher that was trained at another input size sees the images
at that size, where it is accurate, and its maps are resized to the student's: Qi et al., CVPR 2021
(arXiv:2109.06875).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.errors import UserError
from paretune.core.types import Annotations, InputSize
from paretune.detectors.base import Detector
from paretune.networks.network_files import load_network, outputs_of
from paretune.training.history import read_history
from paretune.training.settings import Distill, Training
from paretune.training.trainer import Loss

SAME = (1.0, 1.0)
"""Ratio of the input sizes of a student and a teacher of the same size."""
_SMALLEST = 1e-6
"""Variance added to that of a channel, so that a constant one has no effect."""


class StudentNetwork(nn.Module):
    """A network that in training also returns the outputs of some of its modules.

    Everything is computed inside ``forward``, including the adapters, so that data parallelism around it sees them.

    Args:
        network: the network that is trained.
        names: names of its modules.
        adapters: name of a module → one layer for each of its outputs, applied before it is returned.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], adapters: Mapping[str, Sequence[nn.Module]]) -> None:
        super().__init__()
        self.network, self.names, self._adapted = network, tuple(names), tuple(adapters)
        self.adapters = nn.ModuleList(nn.ModuleList(entry) for entry in adapters.values())

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return the network's outputs; in training (outputs, name of a module → its outputs)."""
        if not self.training:
            return self.network(*arguments, **named)
        with capture_outputs(self.network, self.names) as seen:
            output = self.network(*arguments, **named)
        for name, adapters in zip(self._adapted, self.adapters, strict=True):
            pairs = zip(cast("nn.ModuleList", adapters), seen[name], strict=True)
            seen[name] = [adapter(plane) for adapter, plane in pairs]
        return output, seen


class DistillationLoss:
    """The detector's loss with the terms of distillation, for ``Options.loss``.

    Args:
        teacher: in eval mode, on the device of the training; it is not trained.
        detector: of both networks.
        distill: weights of the terms.
        settings: of the training, for its loss functions.
        ratio: width and height of the images as shares of those that the teacher was trained with.
    """

    def __init__(
        self,
        teacher: nn.Module,
        detector: Detector,
        distill: Distill,
        settings: Training,
        ratio: tuple[float, float] = SAME,
    ) -> None:
        self.teacher = teacher.eval().requires_grad_(False)
        self.detector, self.distill, self.losses, self.ratio = detector, distill, settings.losses, ratio

    def __call__(
        self, forward: Callable[..., Any], images: Tensor, annotations: Sequence[Annotations]
    ) -> dict[str, Tensor]:
        """Return the terms of the detector's loss and the weighted ones of distillation (``distill_…``)."""
        shown: dict[str, list[Tensor]] = {}

        def observed(*arguments: Any, **named: Any) -> Any:
            output, seen = forward(*arguments, **named)
            shown.update(seen)
            return output

        terms = self.detector.training_loss(observed, images, annotations, self.losses)
        teachers = self._teacher_outputs(images, shown)
        more: dict[str, Tensor] = {}
        if self.distill.features:
            names = self.detector.distill_features
            pairs = [pair for name in names for pair in zip(shown[name], teachers[name], strict=True)]
            more["features"] = self.distill.features * correlation_loss(pairs)
        if self.distill.logits:
            size = InputSize(images.shape[3], images.shape[2])
            outputs = self.detector.distillation_loss(shown, teachers, annotations, size, self.distill.temperature)
            more |= {name: self.distill.logits * term for name, term in outputs.items()}
        return {**terms, **{f"distill_{name}": term for name, term in more.items()}}

    def _teacher_outputs(self, images: Tensor, shown: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
        """Return the teacher's outputs for the images by module, in the student's shapes."""
        across, down = self.ratio
        if self.ratio != SAME:
            # even sides, since every level halves them
            height, width = (
                2 * round(side / share / 2) for side, share in zip(images.shape[2:], (down, across), strict=True)
            )
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        with torch.no_grad(), capture_outputs(self.teacher, tuple(shown)) as teachers:
            self.detector.run_teacher(self.teacher, images, shown)
            if self.ratio == SAME:
                return teachers
            for name in set(shown) & set(self.detector.distill_outputs):
                teachers[name] = self.detector.resized_outputs(teachers[name], shown[name], self.ratio)
            for name in set(shown) & set(self.detector.distill_features):
                pairs = zip(teachers[name], shown[name], strict=True)
                teachers[name] = [
                    F.interpolate(teacher_map, student_map.shape[2:], mode="bilinear", align_corners=False)
                    for teacher_map, student_map in pairs
                ]
        return teachers


def with_teacher(
    network: nn.Module,
    detector: Detector,
    num_classes: int,
    size: InputSize,
    settings: Training,
    distill: Distill | None,
    device: str,
) -> tuple[nn.Module, Loss | None]:
    """Return the module to train and its loss; ``unwrap_student`` returns the network in the module.

    Args:
        network: on the CPU; part of the returned module.
        detector: of the network and its teacher.
        num_classes: number of classes of both.
        size: of the network's input.
        settings: of the training; its seed also initialises the adapters.
        distill: weights of the terms; None returns the network and no loss.
        device: torch device of the training.

    Raises:
        UserError: the teacher is missing or cannot be read, or the network lacks the modules to compare.
    """
    if distill is None:
        return network, None
    teacher = _teacher(detector, num_classes, distill)
    if outputs_of(detector, teacher) != outputs_of(detector, network):
        raise UserError(f"distill.teacher: {distill.teacher}: not trained for these {num_classes} classes")
    student = _student(network, teacher, detector, size, settings.seed, distill)
    teacher = teacher.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return student, DistillationLoss(teacher, detector, distill, settings, _ratio(detector, size, distill))


def unwrap_student(network: nn.Module) -> nn.Module:
    """Return a trained network without the module around it."""
    return network.network if isinstance(network, StudentNetwork) else network


def _teacher(detector: Detector, num_classes: int, distill: Distill) -> nn.Module:
    if distill.teacher is None:
        raise UserError("distill: there is no baseline to learn from; name a trained network's folder as `teacher`")
    try:
        return load_network(detector, num_classes, Path(distill.teacher))
    except UserError as error:
        raise UserError(f"distill.teacher: {error}") from error


def _ratio(detector: Detector, size: InputSize, distill: Distill) -> tuple[float, float]:
    """Return width and height of the student's images as shares of those that its teacher was trained with."""
    written = read_history(Path(str(distill.teacher))).get("input_size")
    if written is None or not detector.teacher_sees_own_size:
        return SAME
    own = InputSize.parse(written)
    return size.width / own.width, size.height / own.height


def _student(
    network: nn.Module, teacher: nn.Module, detector: Detector, size: InputSize, seed: int, distill: Distill
) -> StudentNetwork:
    """Return a network with adapters for its feature maps, initialised from the seed."""
    names, adapters = detector.distill_outputs if distill.logits else (), {}
    if distill.features:
        students, teachers = (_maps(module, detector, size) for module in (network, teacher))
        names = (*names, *detector.distill_features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapters = {
                name: [_adapter(*pair) for pair in zip(students[name], teachers[name], strict=True)]
                for name in students
            }
    return StudentNetwork(network, names, adapters)


def _maps(network: nn.Module, detector: Detector, size: InputSize) -> dict[str, list[Tensor]]:
    """Return the feature maps of an empty image; the network's mode and statistics stay.

    Raises:
        UserError: the network lacks the modules.
    """
    modules = dict(network.named_modules())
    if missing := [name for name in detector.distill_features if name not in modules]:
        reason = f"a {detector.name} has no module {missing[0]!r} whose maps could be compared"
        raise UserError(f"distill.features: {reason}; its class must name some (distill_features), or write 0")
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), capture_outputs(network, detector.distill_features) as seen:
            detector.part_modules(network)[detector.part_names[0]](torch.zeros(1, 3, size.height, size.width))
    finally:
        network.train(training)
    return seen


def _adapter(student: Tensor, teacher: Tensor) -> nn.Module:
    if student.shape[1] == teacher.shape[1]:
        return nn.Identity()
    return nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=False)


@contextmanager
def capture_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Yield the outputs of a network's modules by name, collected during the context; "" is the network itself."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def collecting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _, __, output: seen[name].extend(tensors_in(output))

    hooks = [network.get_submodule(name).register_forward_hook(collecting(name)) for name in names]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def tensors_in(output: Any) -> list[Tensor]:
    """Return the tensors in a module's output: a tensor, or nested lists and mappings of tensors."""
    if isinstance(output, Tensor):
        return [output]
    entries = output.values() if isinstance(output, Mapping) else output
    return [tensor for entry in entries for tensor in tensors_in(entry)]


def correlation_loss(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return 1 - Pearson's correlation as a mean over channels and maps: 0 for equal maps, 2 for opposite ones.

    Args:
        pairs: maps of student and teacher, each (B, C, h, w); a channel's values are those of the whole batch.
    """
    terms = [(_standard(student) - _standard(teacher)).square().mean() / 2 for student, teacher in pairs]
    return torch.stack(terms).mean()


def _standard(plane: Tensor) -> Tensor:
    """Return (B, C, h, w) with every channel scaled to mean 0 and variance 1."""
    variance, mean = torch.var_mean(plane.float(), (0, 2, 3), correction=0, keepdim=True)
    return (plane.float() - mean) * (variance + _SMALLEST).rsqrt()
