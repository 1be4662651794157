"""Distillation: a loss that also compares the network with its teacher, for the training loop.

The teacher's answers are compared as the detector says (``Detector.distillation_loss``). Its maps that feed the
heads are compared by their correlation, which knows nothing of their size: Cao et al., PKD, NeurIPS 2022
(arXiv:2207.02039). Where a pruned network has fewer channels, a 1x1 convolution lies between, trained with
it and thrown away: Romero et al., FitNets, ICLR 2015 (arXiv:1412.6550). A teacher of other images than the
student's sees them at the size that it was trained at, and its maps are brought to the student's, which is how
Qi et al. teach networks of small images (CVPR 2021, arXiv:2109.06875): at the student's size it would know
little itself.
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
"""The student sees what its teacher was trained with."""
_SMALLEST = 1e-6
"""Variance of a channel that says nothing."""


class StudentNetwork(nn.Module):
    """A network that in training also gives what its modules of some names have made.

    Everything is computed inside ``forward``, the adapters too, so that data parallelism around it sees them.

    Args:
        network: what is trained.
        names: of its modules.
        adapters: name → what each of the module's maps goes through before it is given out.
    """

    def __init__(self, network: nn.Module, names: Sequence[str], adapters: Mapping[str, Sequence[nn.Module]]) -> None:
        super().__init__()
        self.network, self.names, self._adapted = network, tuple(names), tuple(adapters)
        self.adapters = nn.ModuleList(nn.ModuleList(entry) for entry in adapters.values())

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Return the network's outputs; in training (outputs, name → maps)."""
        if not self.training:
            return self.network(*arguments, **named)
        with capture_outputs(self.network, self.names) as seen:
            output = self.network(*arguments, **named)
        for name, adapters in zip(self._adapted, self.adapters, strict=True):
            pairs = zip(cast("nn.ModuleList", adapters), seen[name], strict=True)
            seen[name] = [adapter(plane) for adapter, plane in pairs]
        return output, seen


class DistillationLoss:
    """The detector's own loss and what a teacher adds to it: takes the place of ``Options.loss``.

    Args:
        teacher: in eval mode, on the device of the training; is never changed.
        detector: of both networks.
        distill: what counts how much.
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
        """Return the terms of the detector's loss, and those of the distillation (``distill_…``), weighted."""
        shown: dict[str, list[Tensor]] = {}

        def observed(*arguments: Any, **named: Any) -> Any:
            output, seen = forward(*arguments, **named)
            shown.update(seen)
            return output

        terms = self.detector.training_loss(observed, images, annotations, self.losses)
        wanted = self._asked(images, shown)
        more: dict[str, Tensor] = {}
        if self.distill.features:
            names = self.detector.distill_features
            pairs = [pair for name in names for pair in zip(shown[name], wanted[name], strict=True)]
            more["features"] = self.distill.features * correlation_loss(pairs)
        if self.distill.logits:
            size = InputSize(images.shape[3], images.shape[2])
            answers = self.detector.distillation_loss(shown, wanted, annotations, size, self.distill.temperature)
            more |= {name: self.distill.logits * term for name, term in answers.items()}
        return {**terms, **{f"distill_{name}": term for name, term in more.items()}}

    def _asked(self, images: Tensor, shown: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
        """Return what the teacher makes of the images, by module, in maps of the student's shapes."""
        across, down = self.ratio
        if self.ratio != SAME:
            # even sides, as every level's are halved; at the size trained for they are the teacher's own
            height, width = (
                2 * round(side / share / 2) for side, share in zip(images.shape[2:], (down, across), strict=True)
            )
            images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        with torch.no_grad(), capture_outputs(self.teacher, tuple(shown)) as wanted:
            self.detector.run_teacher(self.teacher, images, shown)
            if self.ratio == SAME:
                return wanted
            for name in set(shown) & set(self.detector.distill_outputs):
                wanted[name] = self.detector.resized_outputs(wanted[name], shown[name], self.ratio)
            for name in set(shown) & set(self.detector.distill_features):
                pairs = zip(wanted[name], shown[name], strict=True)
                wanted[name] = [
                    F.interpolate(theirs, mine.shape[2:], mode="bilinear", align_corners=False)
                    for theirs, mine in pairs
                ]
        return wanted


def with_teacher(
    network: nn.Module,
    detector: Detector,
    num_classes: int,
    size: InputSize,
    settings: Training,
    distill: Distill | None,
    device: str,
) -> tuple[nn.Module, Loss | None]:
    """Return what is to be trained in place of a network, and the loss; ``unwrap_student`` takes the network out again.

    Args:
        network: on the CPU; is trained itself.
        detector: of the network and its teacher.
        num_classes: that both tell apart.
        size: of their input.
        settings: of the training; its seed is that of the adapters' weights.
        distill: what counts how much; None returns the network as it is.
        device: torch device of the training.

    Raises:
        UserError: no teacher, one that cannot be read, or a network without the maps to compare.
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
    """Return a trained network without what its teacher needed."""
    return network.network if isinstance(network, StudentNetwork) else network


def _teacher(detector: Detector, num_classes: int, distill: Distill) -> nn.Module:
    if distill.teacher is None:
        raise UserError("distill: there is no baseline to learn from; name a trained network's folder as `teacher`")
    try:
        return load_network(detector, num_classes, Path(distill.teacher))
    except UserError as error:
        raise UserError(f"distill.teacher: {error}") from error


def _ratio(detector: Detector, size: InputSize, distill: Distill) -> tuple[float, float]:
    """Return width and height of the student's images as shares of those its teacher was trained with."""
    told = read_history(Path(str(distill.teacher))).get("input_size")
    if told is None or not detector.teacher_sees_own_size:
        return SAME
    own = InputSize.parse(told)
    return size.width / own.width, size.height / own.height


def _student(
    network: nn.Module, teacher: nn.Module, detector: Detector, size: InputSize, seed: int, distill: Distill
) -> StudentNetwork:
    """Wrap a network for training; the seed is that of the adapters' weights."""
    names, adapters = detector.distill_outputs if distill.logits else (), {}
    if distill.features:
        mine, wanted = (_maps(one, detector, size) for one in (network, teacher))
        names = (*names, *detector.distill_features)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            adapters = {name: [_adapter(*pair) for pair in zip(mine[name], wanted[name], strict=True)] for name in mine}
    return StudentNetwork(network, names, adapters)


def _maps(network: nn.Module, detector: Detector, size: InputSize) -> dict[str, list[Tensor]]:
    """Return the maps that feed the heads, of an empty image; the network's mode and statistics stay.

    Raises:
        UserError: the network has no such modules.
    """
    modules = dict(network.named_modules())
    if missing := [name for name in detector.distill_features if name not in modules]:
        said = f"a {detector.name} has no module {missing[0]!r} whose maps could be compared"
        raise UserError(f"distill.features: {said}; its class must name some (distill_features), or write 0")
    training = network.training
    network.eval()
    try:
        with torch.no_grad(), capture_outputs(network, detector.distill_features) as seen:
            detector.part_modules(network)[detector.part_names[0]](torch.zeros(1, 3, size.height, size.width))
    finally:
        network.train(training)
    return seen


def _adapter(mine: Tensor, wanted: Tensor) -> nn.Module:
    if mine.shape[1] == wanted.shape[1]:
        return nn.Identity()
    return nn.Conv2d(mine.shape[1], wanted.shape[1], 1, bias=False)


@contextmanager
def capture_outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what a network's modules of these names make while the block runs; "" is the network itself."""
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
    """Return the tensors in what a module has made: one, or lists and mappings of them."""
    if isinstance(output, Tensor):
        return [output]
    entries = output.values() if isinstance(output, Mapping) else output
    return [tensor for entry in entries for tensor in tensors_in(entry)]


def correlation_loss(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return 1 - Pearson's correlation, the mean over channels and maps; 0 for equal maps, 2 for opposite ones.

    Args:
        pairs: a map and the wanted one, each (B, C, h, w); a channel's values are those of the whole batch.
    """
    terms = [(_standard(found) - _standard(wanted)).square().mean() / 2 for found, wanted in pairs]
    return torch.stack(terms).mean()


def _standard(plane: Tensor) -> Tensor:
    """Bring every channel of (B, C, h, w) to mean 0 and variance 1."""
    variance, mean = torch.var_mean(plane.float(), (0, 2, 3), correction=0, keepdim=True)
    return (plane.float() - mean) * (variance + _SMALLEST).rsqrt()
