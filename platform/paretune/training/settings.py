"""Settings of one training, as written in a job: the training itself, augmentation and distillation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

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
"""Optimizer → argument of torch's class for its momentum; the other optimizers have none."""
ELSEWHERE = ("auto", "minutes", "device", "threads", "loader_threads", "checkpoint_every", "storage", "with_ray")
"""Fields that do not affect the result: where the training runs, how its state is saved, who chose the others."""


class Distill(Spec):
    """Terms of the loss that compare a network with a teacher. Hinton et al., arXiv:1503.02531."""

    logits: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the teacher's scores and boxes in the loss; the detector decides how they are compared."""
    features: float = Field(default=5.0, ge=0, le=1000)
    """Weight of the feature maps before the heads: 1 - correlation with the teacher's, channel by channel."""
    temperature: float = Field(default=1.0, ge=0.1, le=100)
    """Temperature of the class scores in the comparison: above 1, unlikely classes count more."""
    teacher: str | None = None
    """Folder of a trained network of this detector and these classes (its widths may differ); the baseline by default.
    YOLO's teacher sees the images at the size that it was trained at."""

    @model_validator(mode="after")
    def _something(self) -> Distill:
        if not (self.logits or self.features):
            raise ValueError("nothing is learnt from the teacher: logits or features must be above 0")
        return self


FULL_SIZE = 2.0
"""Largest factor by which images are stored larger than the network's input, for crops."""


class Augment(Spec):
    """Random changes of the training images in addition to mirroring; all are off by default.

    Long trainings gain from strong changes, short ones (below about 50 epochs) mostly lose.
    """

    mosaic: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are combined with three others (YOLOv4, arXiv:2004.10934)."""
    mixup: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are blended half and half with another one and its boxes (arXiv:1710.09412)."""
    scale: float = Field(default=0.0, ge=0, le=0.9)
    """Range of the image size: 1 - this to 1 + this times the original."""
    translate: float = Field(default=0.0, ge=0, le=0.5)
    """Largest shift of an image, as a share of the input's sides."""
    colour: float = Field(default=0.0, ge=0, le=1)
    """Strength of changes in brightness, contrast, saturation and hue; 1 is that of SSD (arXiv:1512.02325)."""
    iou_crop: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are cropped to a part with a drawn overlap with an object, as for SSD."""
    zoom_out: float = Field(default=0.0, ge=0, le=1)
    """Share of the images that are placed on a grey area of up to four times their sides, as for SSD."""
    close_epochs: int = Field(default=5, ge=0, le=100_000)
    """Number of last epochs without mosaic and mixup, in which the network sees whole images (YOLOX,
    arXiv:2107.08430)."""

    def in_epoch(self, number: int, epochs: int | None) -> Augment:
        """Return the changes in one epoch (from 0) of a training; without a number of epochs there are no last ones."""
        if epochs is None or number < epochs - self.close_epochs or not (self.mosaic or self.mixup):
            return self
        return self.model_copy(update={"mosaic": 0.0, "mixup": 0.0})

    def problem(self, epochs: int) -> dict[str, str]:
        """Return the fields that do not fit a training of this many epochs, each with the reason."""
        if (self.mosaic or self.mixup) and self.close_epochs >= epochs > 0:
            never = f"of {epochs} epochs the last {self.close_epochs} have neither mosaic nor mixup (close_epochs)"
            return {"augment": never}
        return {}

    @property
    def enlarged(self) -> float:
        """Return the factor by which images are stored larger than the network's input, so that crops are sharp."""
        return min(FULL_SIZE, max(1 + self.scale, FULL_SIZE if self.iou_crop else 1.0))

    @property
    def any(self) -> bool:
        """Return whether any change is on."""
        return any((self.mosaic, self.mixup, self.scale, self.translate, self.colour, self.iou_crop, self.zoom_out))


NOTHING = Augment()


class Training(Spec):
    """Settings of a training. Sizes are per worker, that is per device."""

    renamed: ClassVar[Mapping[str, str]] = {"readers": "loader_threads"}

    auto: bool = False
    """Choose every field that is not given from the training split and the time budget, when the training starts;
    written `training: auto`. The chosen fields and their reasons are printed and saved."""
    minutes: float | None = Field(default=None, gt=0, le=1_000_000)
    """Time budget of auto in minutes on this machine; 10 by default."""
    epochs: int = Field(default=30, ge=0, le=100_000)
    """Passes over the training split; 0 uses the weights that the detector names unchanged."""
    batch_size: int = Field(default=8, ge=1, le=4096)
    """Number of images in a batch."""
    accumulate: int = Field(default=1, ge=1, le=1024)
    """Batches whose gradients are averaged for one update of the weights: a larger batch in the same memory."""
    box_loss: str | None = None
    """Loss of the boxes in place of the detector's: one that it offers of iou, giou, diou, ciou and smooth_l1, or, if
    it compares offsets, a loss of torch.nn by name, such as HuberLoss."""
    class_loss: str | None = None
    """Loss of the classes in place of the detector's: one that it offers of bce, cross_entropy and focal, or a loss of
    torch.nn by name, such as MultiMarginLoss."""
    optimizer: str = "AdamW"
    """Name of a class of torch.optim; any that needs the loss only once in a step."""
    lr: float = Field(default=2e-3, gt=0, le=10)
    """Highest learning rate: reached after the warm-up, then lowered by the schedule."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Momentum of SGD (0.9 by default, in Nesterov's form) and RMSprop; the first beta of Adam and its variants."""
    weight_decay: float = Field(default=0.02, ge=0, le=1)
    """Weight decay of convolutions and linear layers; norms, biases and embeddings have none."""
    schedule: Literal["cosine", "linear", "step", "constant"] = "cosine"
    """Decrease of the learning rate: cosine and linear to 1 %, step at each of the milestones."""
    milestones: Annotated[tuple[float, ...], Field(strict=False)] = (0.67, 0.9)
    """Shares of the training after which the step schedule multiplies the learning rate by gamma."""
    gamma: float = Field(default=0.1, gt=0, lt=1)
    """Factor of the step schedule, see milestones."""
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs over which the learning rate rises from 0."""
    freeze_epochs: int = Field(default=0, ge=0, le=100_000)
    """First epochs in which the backbone is frozen and only the layers after it are trained; for pretrained
    weights."""
    ema: float = Field(default=0.99, ge=0, lt=1)
    """Decay of the moving average of the weights, which is the result; 0 keeps the last weights."""
    amp: bool | Literal["auto"] = False
    """Mixed precision: bfloat16 by torch's autocast, or float16 with a scaled loss on a GPU without bfloat16; auto uses
    it only if the device computes it natively."""
    flip: float = Field(default=0.5, ge=0, le=1)
    """Share of the training images that are mirrored."""
    augment: Augment = Augment()
    """Further random changes of the training images."""
    multi_scale: float = Field(default=0.0, ge=0, le=0.75)
    """Range of each step's input size: 1 - this to 1 + this times the input size, in multiples of 32; 0 for a single
    size."""
    clip: float = Field(default=10.0, ge=0)
    """Largest norm of the gradient; 0 for no limit."""
    validate_every: int = Field(default=0, ge=0, le=100_000)
    """Epochs between evaluations on the validation split; 0 evaluates the finished network only."""
    patience: int = Field(default=0, ge=0, le=100_000)
    """Epochs without a better map on the validation split after which the training ends with the best network; 0 trains
    all epochs and keeps the last network."""
    checkpoint_every: int = Field(default=1, ge=1, le=100_000)
    """Epochs between saved states; an interrupted training is resumed from the last one."""
    seed: int = Field(default=0, ge=0)
    """Seed of weights, order and augmentation."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the training; auto takes a GPU if there is one."""
    workers: int = Field(default=1, ge=1, le=1024)
    """Processes that train together by Ray Train, each on its own device; 1 trains without Ray."""
    with_ray: bool = False
    """Train one worker by Ray Train too."""
    storage: str | None = None
    """Second folder for saved states during the training, also remote, such as s3://bucket/folder: a machine without
    the output folder resumes from it."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of torch on a CPU; 0 for all cores, or those that Ray gave the process."""
    loader_threads: int = Field(default=2, ge=1, le=64)
    """Threads that read and change the training images in advance."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_word(cls, value: Any) -> Any:
        """Return the fields of a value that may be `auto`; minutes imply auto."""
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
            raise misplaced(
                type(self).__name__, {(name,): (reason, getattr(self, name)) for name, reason in wrong.items()}
            )
        return self

    def _wrong_of_epochs(self) -> dict[str, str]:
        """Return the fields that do not fit the number of epochs, each with the reason."""
        wrong = self.augment.problem(self.epochs)
        if self.minutes is not None:
            wrong["minutes"] = "belongs to `auto`, which is off"
        if self.freeze_epochs >= self.epochs > 0:
            wrong["freeze_epochs"] = f"of {self.epochs} epochs none is left to train the whole network"
        return wrong

    def _tried(self) -> dict[str, str]:
        """Return why an optimizer cannot train, by trying it, for which torch is imported; empty if it can."""
        from paretune.training.optimizer import optimizer_unsupported_reason

        problem = optimizer_unsupported_reason(self)
        return {} if problem is None else {"optimizer": problem}

    @property
    def by_ray(self) -> bool:
        """Return whether Ray Train runs the training."""
        return self.with_ray or self.workers > 1

    @property
    def losses(self) -> Losses:
        """Return the loss functions in place of the detector's."""
        return Losses(self.box_loss, self.class_loss)

    def as_computed(self) -> dict[str, Any]:
        """Return the fields that affect the result."""
        fields = {key: value for key, value in self.tree().items() if key not in ELSEWHERE}
        if not self.freeze_epochs:  # keeps the fingerprint of trainings from before this field
            del fields["freeze_epochs"]
        return fields
