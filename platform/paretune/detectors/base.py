"""What a detector family must do.

One network has three views. ``core`` (the module's forward: images → raw maps) is what is exported,
quantized and run. ``decode`` (raw maps → detections) is numpy, outside the graph and shared by every
runtime and precision. ``prune_view`` is what torch-pruning traces.
"""

from __future__ import annotations

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from paretune.core.errors import did_you_mean
from paretune.core.spec import Spec
from paretune.core.types import Annotations, Detections, Floats, InputSize, Thresholds
from paretune.data.preprocess import Preprocess

if TYPE_CHECKING:
    from torch import Tensor, nn


BoxLoss = Literal["iou", "giou", "diou", "ciou", "smooth_l1"]
ClassLoss = Literal["bce", "cross_entropy", "focal"]
Compared = Literal["offsets", "labels", "certainties"]
"""Offsets (P, 4) with offsets; logits (P, C) with labels (P,), or with certainties (P, C) in [0, 1]."""


@dataclass(frozen=True)
class Losses:
    """Loss functions in place of the family's own; None keeps those."""

    box: str | None = None
    """A `BoxLoss`, or a class of torch.nn by name."""
    classes: str | None = None
    """A `ClassLoss`, or a class of torch.nn by name."""


OWN = Losses()


@dataclass(frozen=True)
class InitialNetwork:
    """The network that a training starts from."""

    network: nn.Module
    notes: tuple[str, ...] = ()
    """What is to be known of its weights, a line each."""
    fresh: tuple[str, ...] = ()
    """Classes that no trained weights are there for, of a network that has some."""


class Detector(Spec, ABC):
    """One family; its fields choose the member. Importing its file must not import torch.

    To be written: ``name``, all that is abstract here, and ``loss`` or ``training_loss``.
    """

    box_losses: ClassVar[tuple[BoxLoss, ...]] = ()
    """Values of ``Losses.box`` other than the family's own."""
    class_losses: ClassVar[tuple[ClassLoss, ...]] = ()
    """Values of ``Losses.classes`` other than the family's own."""
    boxes_compared: ClassVar[Compared | None] = None
    """What a loss of torch.nn would compare, where ``Losses.box`` may name any."""
    classes_compared: ClassVar[Compared | None] = None
    """What a loss of torch.nn would compare, where ``Losses.classes`` may name any."""

    usual_lr: ClassVar[float] = 2e-3
    """Highest learning rate of AdamW for fresh weights and batches of 8: where `training: auto` begins."""
    leaves_out_ignored: ClassVar[bool] = False
    """True if ``loss`` gets entries to ignore too, and teaches nothing of what lies on them."""
    part_names: ClassVar[tuple[str, ...]] = ("core",)
    """The networks that are exported, in the order they run. A family of several computes between them on the host."""
    distill_features: ClassVar[tuple[str, ...]] = ("backbone",)
    """Modules of the network whose outputs feed the heads: maps that a teacher and its student are compared by."""
    distill_outputs: ClassVar[tuple[str, ...]] = ("",)
    """Modules whose outputs ``distillation_loss`` compares; "" is the network itself, with its raw maps."""
    teacher_sees_own_size: ClassVar[bool] = False
    """True if a teacher may see the images at the size it was trained at; ``resized_outputs`` brings its maps to the
    student's size."""

    @classmethod
    def unwritten(cls) -> list[str]:
        """Return the members that are missing: also a loss, which may be one of two."""
        missing = super().unwritten()
        if "preprocess" not in missing and inspect.isfunction(inspect.getattr_static(cls, "preprocess")):
            missing.append("preprocess as a property")
        if cls.loss is Detector.loss and cls.training_loss is Detector.training_loss:
            missing.append("loss (or training_loss)")
        return missing

    @classmethod
    def loss_unsupported_reason(cls, field: Literal["box_loss", "class_loss"], asked: str) -> str | None:
        """Return why a loss cannot be had in place of the family's own, or None; one of torch.nn is tried."""
        offered: tuple[str, ...] = cls.box_losses if field == "box_loss" else cls.class_losses
        compared = cls.boxes_compared if field == "box_loss" else cls.classes_compared
        if asked in offered:
            return None
        if compared is not None and asked[:1].isupper():
            from paretune.detectors.losses import loss_unsupported_reason

            return loss_unsupported_reason(asked, compared)
        choices = ", ".join([*offered, *(["losses of torch.nn"] if compared else [])])
        return f"{cls.name} offers {choices or 'its own only'}{did_you_mean(asked, offered)}"

    @property
    @abstractmethod
    def preprocess(self) -> Preprocess:
        """How an image becomes the network's input: in training, evaluation and the deployed artefact alike."""

    @abstractmethod
    def size_unsupported_reason(self, size: InputSize) -> str | None:
        """Return why the network cannot take this input size and what would be right, or None."""

    @abstractmethod
    def build(self, num_classes: int) -> nn.Module:
        """Build the network with fresh weights.

        Its forward is the core: images (B, 3, H, W) float32 → tuple of raw maps, in the order of
        ``raw_names``.
        """

    def decoding(self, size: InputSize) -> tuple[tuple[Any, ...], dict[str, Any]] | None:  # noqa: ARG002 - for overriding
        """Return what decodes its raw maps in a bundle, without Paretune, or None if nothing can.

        The modules and functions in numpy whose source is copied, and the constants that they are called with, for the
        function in ``runtimes/loaders/NAME.py.txt``.
        """
        return None

    @property
    def most_boxes(self) -> float:
        """Return the most boxes that the network can find in an image, whatever postprocessing keeps."""
        return math.inf

    def problems(self) -> list[str]:
        """Return what is wrong with files on this machine that its fields name, one line each, in a quick look."""
        return []

    @property
    def starts_trained(self) -> bool:
        """Return whether ``begin`` gives trained weights of the whole network."""
        return False

    @property
    def trained_size(self) -> InputSize | None:
        """Return the one input size that the weights it names were trained at, where torchvision has one."""
        return None

    def begin(self, classes: Sequence[str] | int) -> InitialNetwork:
        """Build the network that training starts from: fresh by default, or with weights somebody has trained.

        Args:
            classes: their names, or only their number.

        Raises:
            UserError: the weights cannot be had, or are not this network's.
        """
        return InitialNetwork(self.build(classes if isinstance(classes, int) else len(classes)))

    def suited(
        self,
        smallest: float,  # noqa: ARG002 - for those with default boxes
        largest: float,  # noqa: ARG002 - the same
        size: InputSize,  # noqa: ARG002 - the same
    ) -> dict[str, tuple[Any, str]]:
        """Return fields that follow from the objects' sizes, each with the reason: for `training: auto`.

        Args:
            smallest: side of a small object, as a share of the image's (the root of the areas' ratio).
            largest: side of a large object, as a share of the image's.
            size: of the network's input.
        """
        return {}

    @abstractmethod
    def raw_names(self) -> tuple[str, ...]:
        """Name the raw maps in their order: the output names of an exported file."""

    def part_outputs(self, part: str) -> tuple[str, ...]:  # noqa: ARG002 - most have one
        """Name the outputs of one exported network."""
        return self.raw_names()

    def part_input(self, part: str) -> str:
        """Name the one input of an exported network."""
        return "images" if part == self.part_names[0] else "features"

    def part_modules(self, network: nn.Module) -> dict[str, nn.Module]:
        """Return the networks that are exported, each input → tuple of outputs, over the same parameters."""
        return {self.part_names[0]: network}

    def run(
        self,
        parts: Mapping[str, Callable[[Floats], Sequence[Floats]]],
        batch: Floats,
        size: InputSize,  # noqa: ARG002 - for those who compute between the parts
    ) -> tuple[Floats, ...]:
        """Run the parts, wherever they are loaded, on images (B, 3, H, W); returns the raw maps."""
        return tuple(parts[self.part_names[0]](batch))

    @abstractmethod
    def decode(self, raw: Sequence[Floats], size: InputSize, thresholds: Thresholds) -> list[Detections]:
        """Turn raw maps, each (B, ...), into detections per image, boxes in pixels of the network's input."""

    def loss(
        self, raw: Sequence[Tensor], annotations: Sequence[Annotations], size: InputSize, losses: Losses = OWN
    ) -> dict[str, Tensor]:
        """Return the terms of the training loss, scalars whose sum is minimised.

        Args:
            raw: the network's outputs, each (B, ...).
            annotations: boxes in pixels of the network's input; entries to ignore are there only where the class has
                ``leaves_out_ignored``.
            size: of that input.
            losses: in place of the family's own.

        Raises:
            NotImplementedError: the family's network takes the targets itself: see ``training_loss``.
        """
        raise NotImplementedError(f"{self.name} is trained by training_loss only")

    def training_loss(
        self, forward: Callable[..., Any], images: Tensor, annotations: Sequence[Annotations], losses: Losses = OWN
    ) -> dict[str, Tensor]:
        """Run the network on one batch and return the terms of its loss.

        Args:
            forward: the network's forward (mixed precision and data parallelism around it); a family whose
                training takes more than raw maps overrides this, and may pass its own further arguments.
            images: (B, 3, H, W) float32.
            annotations: boxes in pixels of the network's input, with entries to ignore.
            losses: as for ``loss``.
        """
        if not self.leaves_out_ignored:
            from paretune.detectors.losses import trained_on

            annotations = trained_on(annotations)
        size = InputSize(images.shape[3], images.shape[2])
        return self.loss(forward(images), annotations, size, losses)

    def run_teacher(
        self,
        teacher: nn.Module,
        images: Tensor,
        shown: Mapping[str, Sequence[Tensor]],  # noqa: ARG002 - for those whose second network needs the regions
    ) -> None:
        """Run a teacher on a batch, so that the modules it is compared by are run.

        Args:
            teacher: a network of this detector, in eval mode.
            images: (B, 3, H, W) float32.
            shown: what the student's modules have made of them, by name.
        """
        self.part_modules(teacher)[self.part_names[0]](images)

    def resized_outputs(
        self, answers: Sequence[Tensor], like: Sequence[Tensor], ratio: tuple[float, float]
    ) -> list[Tensor]:
        """Return a teacher's answers to images of its own size as they would be to the student's.

        Only asked of those with ``teacher_sees_own_size``; their answers are the raw maps.

        Args:
            answers: the teacher's raw maps.
            like: the student's, whose shapes they get.
            ratio: width and height of the student's images as a share of the teacher's.
        """
        raise NotImplementedError(f"{self.name} has a teacher that sees what the student sees")

    def distillation_loss(
        self,
        shown: Mapping[str, Sequence[Tensor]],
        wanted: Mapping[str, Sequence[Tensor]],
        annotations: Sequence[Annotations],  # noqa: ARG002 - for those who hold the teacher to the truth
        size: InputSize,  # noqa: ARG002 - the same
        temperature: float,  # noqa: ARG002 - for those who know which maps are classes
    ) -> dict[str, Tensor]:
        """Return how far a student's answers are from its teacher's: terms, scalars, zero where they are equal.

        By default the mean squared difference of the raw maps: Ba and Caruana, NeurIPS 2014 (arXiv:1312.6184).

        Args:
            shown: outputs of the modules ``distill_outputs``, by name.
            wanted: the teacher's.
            annotations: as for ``loss``.
            size: of the network's input.
            temperature: by which class scores are softened.
        """
        pairs = [pair for name in self.distill_outputs for pair in zip(shown[name], wanted[name], strict=True)]
        terms = [(mine.float() - teachers.float()).square().mean() for mine, teachers in pairs]
        return {"answers": sum(terms[1:], terms[0]) / len(terms)}

    @abstractmethod
    def prune_view(self, network: nn.Module) -> nn.Module:
        """Return a module over the same parameters that ends at the predictor convolutions."""

    def lone_parameters(self, network: nn.Module) -> list[tuple[nn.Parameter, int]]:  # noqa: ARG002 - most have none
        """Return parameters of no layer that have channels, each with the dimension of these."""
        return []

    @abstractmethod
    def protected(self, network: nn.Module) -> list[nn.Module]:
        """Return the modules whose outputs must keep their channels (the predictors)."""
