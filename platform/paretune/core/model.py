"""The model that the steps of a recipe change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paretune.core.types import InputSize

if TYPE_CHECKING:
    from torch import nn

Format = str
"""Name of a model's format: ``torch`` for a network in memory, else the suffix of its files, such as ``onnx``.

A runtime names the format that it loads, a step those that it takes and produces; there is no table of formats.
"""
Accepted = Format
"""Format that a step takes, or ``either``: torch or ONNX, depending on what the recipe's runtime loads."""
WeightProperty = Literal["zeros", "clusters"]
"""Property of weights that training destroys: zeros are kept at zero by later training, clusters are lost."""


@dataclass(frozen=True)
class Model:
    """A network between two steps of a recipe: a torch module, or files once it is exported.

    A step returns a new Model and leaves the one that it received unchanged.
    """

    network: nn.Module | None
    """Torch network in eval mode on the CPU; None once exported."""
    file: Path | None
    """Exported file, of the first part where a detector has several; None before the export."""
    input_size: InputSize
    history: tuple[str, ...] = ()
    """Names of the steps applied so far, in order."""
    notes: tuple[str, ...] = ()
    """Remarks for the reader of a result: a step that changed nothing, a small calibration set."""
    params: int | None = None
    """Number of parameters of the network (kept when it is exported)."""
    flops: int | None = None
    """Floating-point operations of one inference, 2 x multiply-adds (kept when it is exported)."""
    calibration: Mapping[str, Any] | None = None
    """Images that INT8 ranges were taken from, and the method; None without static INT8."""
    more: Mapping[str, Path] = field(default_factory=dict)
    """Exported files of further parts, by the part's name."""
    file_format: Format = "onnx"
    """Format of the exported files."""
    changed: bool = True
    """True if the last step changed the model; the last note gives the reason where it did not."""
    weight_properties: frozenset[WeightProperty] = frozenset()
    """Properties of the weights that the steps so far have made, and that training would destroy."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the exported files of all parts, in the order they run; empty before the export."""
        return () if self.file is None else (self.file, *self.more.values())

    @property
    def format(self) -> Format:
        """Return the current format."""
        return "torch" if self.file is None else self.file_format

    @property
    def torch_network(self) -> nn.Module:
        """Return the torch network.

        Raises:
            ValueError: the model is exported.
        """
        if self.network is None:
            raise ValueError(f"expected a torch network, and the model is exported ({self.format})")
        return self.network

    def noted(self, *notes: str) -> Model:
        """Return the model with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def unchanged(self, reason: str) -> Model:
        """Return the model marked as not changed by the current step, with the reason as its last note.

        Args:
            reason: begins with the step's name and "changed nothing", such as "prune changed nothing: …".
        """
        return replace(self.noted(reason), changed=False)
