"""How training pictures are changed at random, as written in a job; ``augmenting`` carries it out."""

from __future__ import annotations

from pydantic import Field

from paretune.core.spec import Spec

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
