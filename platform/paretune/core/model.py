"""Model: what goes through the steps of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.core.types import InputSize

if TYPE_CHECKING:
    from torch import nn

Format = Literal["torch", "onnx"]
Accepted = Literal["torch", "onnx", "either"]
"""What a step takes: one format, or whichever the recipe's runtime loads."""


@dataclass(frozen=True)
class Model:
    """A network on its way: first a torch module, after export a file.

    A step returns a new Model and leaves the one it was given as it was.
    """

    network: nn.Module | None
    """The torch network, in eval mode on the CPU; None once exported."""
    file: Path | None
    """The exported file, of the first part where a detector has several; None before."""
    input_size: InputSize
    history: tuple[str, ...] = ()
    """Names of the steps done, in order."""
    notes: tuple[str, ...] = ()
    """What a reader must know: a step that changed nothing, a small calibration set."""
    params: int | None = None
    """Number of parameters of the network (kept when it is exported)."""
    flops: int | None = None
    """Floating-point operations of one inference, 2 x multiply-adds (kept when it is exported)."""

    calibration: Mapping[str, Any] | None = None
    """The images that ranges of INT8 were taken from, and how; None where none were."""

    more: Mapping[str, Path] = field(default_factory=dict)
    """The exported files of further parts, by their names."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the exported files of all parts, in the order they run; none before the export."""
        return () if self.file is None else (self.file, *self.more.values())

    @property
    def format(self) -> Format:
        """Return what the model is now."""
        return "torch" if self.file is None else "onnx"

    def noted(self, *notes: str) -> Model:
        """Return the same model with more notes."""
        return replace(self, notes=(*self.notes, *notes))
