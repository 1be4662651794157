"""The model that the steps of a recipe change."""

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
"""Input of a step: one format, or the format that the recipe's runtime loads."""


@dataclass(frozen=True)
class Model:
    """A network during a recipe: a torch module, or a file after the export. Steps return a new one."""

    network: nn.Module | None
    """The torch network, in eval mode on the CPU; None once exported."""
    file: Path | None
    """The exported file, of the first part where a detector has several; None before."""
    input_size: InputSize
    history: tuple[str, ...] = ()
    """Names of the steps applied so far, in order."""
    notes: tuple[str, ...] = ()
    """Remarks for the reader, such as a step that changed nothing."""
    params: int | None = None
    """Number of parameters of the network (kept when it is exported)."""
    flops: int | None = None
    """Floating-point operations of one inference, 2 x multiply-adds (kept when it is exported)."""

    calibration: Mapping[str, Any] | None = None
    """Images and method of the INT8 calibration; None if there was none."""

    more: Mapping[str, Path] = field(default_factory=dict)
    """Exported files of further parts, by name."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the exported files of all parts, in the order they run; empty before the export."""
        return () if self.file is None else (self.file, *self.more.values())

    @property
    def format(self) -> Format:
        """Return the present format."""
        return "torch" if self.file is None else "onnx"

    def noted(self, *notes: str) -> Model:
        """Return a copy with more notes."""
        return replace(self, notes=(*self.notes, *notes))
