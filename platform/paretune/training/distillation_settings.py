"""Distillation, as written in a recipe; ``distilling`` carries it out."""

from __future__ import annotations

from pydantic import Field, model_validator

from paretune.core.spec import Spec


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
