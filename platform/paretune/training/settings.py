"""Training: the settings of one training run, as written in a job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from paretune.core.library_names import OPTIMIZERS
from paretune.core.spec import Spec, misplaced
from paretune.detectors.base import Losses

MOMENTUM_IS: dict[str, Literal["momentum", "betas"]] = {
    "SGD": "momentum",
    "RMSprop": "momentum",
    "Adam": "betas",
    "AdamW": "betas",
    "Adamax": "betas",
    "NAdam": "betas",
    "RAdam": "betas",
}
"""Optimizer of ``OPTIMIZERS`` → the argument of torch's class that holds its momentum; the others have none."""
ELSEWHERE = ("auto", "minutes", "device", "threads", "readers", "checkpoint_every", "storage", "with_ray")
"""Fields that do not decide what comes out: where it runs, where and how often it is saved, and who chose the rest."""


class Distill(Spec):
    """What a network learns from a teacher, besides the annotations. Hinton et al., arXiv:1503.02531."""

    logits: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the teacher's answers (scores and boxes) in the loss; how they are compared depends on the detector."""
    features: float = Field(default=5.0, ge=0, le=1000)
    """Weight of the maps that feed the heads: 1 - correlation with the teacher's, channel by channel."""
    temperature: float = Field(default=1.0, ge=0.1, le=100)
    """Softens the class scores of both before they are compared: above 1, unlikely classes count more."""
    teacher: str | None = None
    """Folder of another trained network of this detector and these classes (its widths may differ); the baseline
    by default. YOLO's sees the images at the size it was trained at, whatever the student's."""

    @model_validator(mode="after")
    def _something(self) -> Distill:
        if not (self.logits or self.features):
            raise ValueError("nothing is learnt from the teacher: logits or features must be above 0")
        return self


FULL_SIZE = 2.0
"""Most that pictures are kept larger than the network's input, for crops to be cut from."""


class Augment(Spec):
    """Random changes of the training pictures, besides mirroring; all are off unless asked for.

    Long trainings gain from strong changes, short ones (below some 50 epochs) mostly lose by them.
    """

    mosaic: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are put together of four (YOLOv4, arXiv:2004.10934)."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that another is laid over, half transparent, with its boxes (arXiv:1710.09412)."""
    scale: float = Field(default=0.0, ge=0, le=0.9)
    """Pictures are shown at 1 - this to 1 + this times their size."""
    translate: float = Field(default=0.0, ge=0, le=0.5)
    """Pictures are moved by up to this share of the input's sides."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """Strength of changes in brightness, contrast, saturation and hue; 1 is that of SSD (arXiv:1512.02325)."""
    iou_crop: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are cut to a part which overlaps an object by a drawn amount, as for SSD."""
    zoom_out: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are shown smaller, on a grey area of up to four times their sides, as for SSD."""
    close_epochs: int = Field(default=5, ge=0, le=100_000)
    """In the last epochs, so many, there is neither mosaic nor mixup: the network sees whole pictures again
    (YOLOX, arXiv:2107.08430)."""

    def in_epoch(self, number: int, epochs: int | None) -> Augment:
        """Return what applies in one epoch (from 0) of so many; None: the last epochs never come."""
        if epochs is None or number < epochs - self.close_epochs or not (self.mosaic or self.mixup):
            return self
        return self.model_copy(update={"mosaic": 0.0, "mixup": 0.0})

    def problem(self, epochs: int) -> dict[str, str]:
        """Return what is wrong with these changes in a training of so many epochs, or nothing."""
        if (self.mosaic or self.mixup) and self.close_epochs >= epochs > 0:
            never = f"of {epochs} epochs the last {self.close_epochs} have neither mosaic nor mixup (close_epochs)"
            return {"augment": never}
        return {}

    @property
    def enlarged(self) -> float:
        """Return how much larger than the network's input pictures must be kept, for what is cut out to be sharp."""
        return min(FULL_SIZE, max(1 + self.scale, FULL_SIZE if self.iou_crop else 1.0))

    @property
    def any(self) -> bool:
        """Tell whether anything is changed."""
        return any((self.mosaic, self.mixup, self.scale, self.translate, self.colour, self.iou_crop, self.zoom_out))


NOTHING = Augment()


class Training(Spec):
    """How a network is trained. Sizes are per worker, that is per device."""

    auto: bool = False
    """Choose every field that is not given by what the training split holds and by the minutes, when the training
    starts: written `training: auto`. What was chosen, and why, is printed and kept as plain fields."""
    minutes: float | None = Field(default=None, gt=0, le=1_000_000)
    """For auto: the time that the training may take on this machine; 10 unless told."""
    epochs: int = Field(default=30, ge=0, le=100_000)
    """Passes over the training split; 0 takes the weights that the detector names as they are."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Images that go through the network at once."""
    accumulate: int = Field(default=1, ge=1, le=1024)
    """Batches whose gradients are averaged before the weights change once: a larger batch in the same memory."""
    box_loss: str | None = None
    """Loss of the boxes, in place of the detector's own: iou, giou, diou, ciou or smooth_l1, what it offers; where it
    compares offsets, a loss of torch.nn by name, such as HuberLoss."""
    class_loss: str | None = None
    """Loss of the classes, in place of the detector's own: bce, cross_entropy or focal, what it offers, or a loss of
    torch.nn by name, such as MultiMarginLoss."""
    optimizer: str = "AdamW"
    """A class of torch.optim, by name: any that trains a network without being given its loss several times a step."""
    lr: float = Field(default=2e-3, gt=0, le=10)
    """Highest learning rate: reached after the warm-up, then lowered by the schedule."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Of SGD (0.9 unless told, in Nesterov's form) and RMSprop; of Adam and its kin the first of the two betas."""
    weight_decay: float = Field(default=0.02, ge=0, le=1)
    """Applied to weights of convolutions and linear layers only: not to norms, biases and embeddings."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """How the learning rate goes down: cosine and linear to 1 % of it, step at each of the milestones."""
    milestones: Annotated[tuple[float, ...], Field(strict=False)] = (0.67, 0.9)
    """For the step schedule: the shares of the training after which the learning rate is multiplied by gamma."""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    """For the step schedule: see milestones."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs over which the learning rate rises from nothing."""
    freeze_epochs: int = Field(default=0, ge=0, le=100_000)
    """Epochs at the beginning for which the backbone stays as it is, and only what comes behind it is trained: for
    weights that somebody has trained."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the moving average of the weights that is kept as the result; 0 keeps the last weights."""
    amp: bool | Literal["auto"] = False
    """Mixed precision: bfloat16 where torch's autocast allows it, or float16 with a scaled loss on a GPU without
    bfloat16; auto does so only where the device computes it natively."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Share of the training images that are mirrored."""
    augment: Augment = Augment()
    """Further random changes of the training images."""
    multi_scale: float = Field(default=0.0, ge=0, le=0.75)
    """Each step's input size is drawn from 1 - this to 1 + this times the input size, in multiples of 32; 0 keeps
    the one size."""
    clip: float = Field(default=10.0, ge=0)
    """Largest norm of the gradient; 0 leaves it as it is."""
    validate_every: int = Field(default=0, ge=0, le=100_000)
    """Epochs from one evaluation on the validation split to the next; 0 evaluates the finished network only."""
    patience: int = Field(default=0, ge=0, le=100_000)
    """Stop after so many epochs without a better map on the validation split, and keep the best network; 0 trains
    all epochs and keeps the last."""
    checkpoint_every: int = Field(default=1, ge=1, le=100_000)
    """Epochs from one saved state to the next: a training that was killed goes on from the last."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, order and augmentation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """What to train on; auto takes a GPU where there is one."""
    workers: int = Field(default=1, ge=1, le=1024)
    """Processes that train together by Ray Train, each with a device of its own; 1 trains without Ray."""
    with_ray: bool = False
    """Train by Ray Train also with one worker."""
    storage: str | None = None
    """Folder, also of a remote file system such as s3://bucket/folder, in which states are kept, besides the output
    folder, until the training is finished: a machine without that output folder goes on from there."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of torch on a CPU; 0 takes what there is: every core, or those that Ray gave the process."""
    readers: int = Field(default=2, ge=1, le=64)
    """Threads that read and change the training images ahead of time."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, value: Any) -> Any:
        """Read `auto`, also with fields beside it that were set one by one; minutes ask for it too."""
        if value == "auto":
            return {"auto": True}
        if not isinstance(value, Mapping):
            return value
        fields = {**value, "auto": True} if value.get("auto") == {} else dict(value)
        return fields if fields.get("minutes") is None else {"auto": True, **fields}

    @model_validator(mode="after")
    def _fields_fit(self) -> Training:
        given = self.model_fields_set
        wrong: dict[str, str] = {}
        if self.optimizer not in OPTIMIZERS:
            wrong |= self._tried()
        elif self.momentum is not None and self.optimizer not in MOMENTUM_IS:
            wrong["momentum"] = f"{self.optimizer} has none; {', '.join(MOMENTUM_IS)} have"
        if self.optimizer == "Rprop" and "weight_decay" in given and self.weight_decay:
            wrong["weight_decay"] = "Rprop looks at signs only, and knows no weight decay"
        for name in sorted({"milestones", "gamma"} & given):
            if self.schedule != "step" and getattr(self, name) != type(self).model_fields[name].default:
                wrong[name] = f"belongs to `schedule: step`, and the schedule is {self.schedule}"
        marks = self.milestones
        if not marks or list(marks) != sorted(set(marks)) or not 0 < marks[0] <= marks[-1] < 1:
            wrong["milestones"] = "shares of the training in rising order are expected, such as [0.67, 0.9]"
        if self.patience and not self.validate_every:
            wrong["patience"] = "nothing is validated while training; give validate_every too, such as 1"
        elif 0 < self.patience < self.validate_every:
            wrong["patience"] = f"shorter than the {self.validate_every} epochs from one validation to the next"
        wrong |= {} if self.auto else self._wrong_of_epochs()
        if wrong:
            raise misplaced(type(self).__name__, {(name,): (said, getattr(self, name)) for name, said in wrong.items()})
        return self

    def _wrong_of_epochs(self) -> dict[str, str]:
        """Return what does not fit the epochs, which are still to be chosen with auto."""
        wrong = self.augment.problem(self.epochs)
        if self.minutes is not None:
            wrong["minutes"] = "belongs to `auto`, which is off"
        if self.freeze_epochs >= self.epochs > 0:
            wrong["freeze_epochs"] = f"of {self.epochs} epochs none is left to train the whole network"
        return wrong

    def _tried(self) -> dict[str, str]:
        """Return what hinders an optimizer that is not known to train: it is tried, for which torch is imported."""
        from paretune.training.optimizer import optimizer_unsupported_reason

        problem = optimizer_unsupported_reason(self)
        return {} if problem is None else {"optimizer": problem}

    @property
    def by_ray(self) -> bool:
        """Tell whether it is Ray Train that trains."""
        return self.with_ray or self.workers > 1

    @property
    def losses(self) -> Losses:
        """Return the loss functions in place of the detector's own."""
        return Losses(self.box_loss, self.class_loss)

    def as_computed(self) -> dict[str, Any]:
        """Return the fields that decide what comes out."""
        fields = {key: value for key, value in self.tree().items() if key not in ELSEWHERE}
        if not self.freeze_epochs:  # a training that was begun before there was such a field is still the same
            del fields["freeze_epochs"]
        return fields
