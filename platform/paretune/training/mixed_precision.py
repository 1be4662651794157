"""Mixed precision: the type that a device computes in, and the scaled loss that float16 needs.

Micikevicius et al., "Mixed Precision Training", arXiv:1710.03740; Kalamkar et al., bfloat16, arXiv:1905.12322.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from paretune.core.target import cpu_has_bfloat16

SMALLEST_SCALE = 2.0**-14
"""Scale of the loss below which an overflow in float16 is an error, not an accident of one step."""


def native_bfloat16(kind: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether a kind of device (``cpu``, ``cuda``) computes bfloat16 natively."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return cpu_has_bfloat16(cpuinfo)


def computed_in(amp: bool | Literal["auto"], kind: str) -> torch.dtype:
    """Return the type that autocast computes in; float32 means no autocast.

    Args:
        amp: field of the settings; True allows bfloat16 also on a CPU that emulates it.
        kind: kind of device, ``cpu`` or ``cuda``.
    """
    if not amp:
        return torch.float32
    if native_bfloat16(kind):
        return torch.bfloat16
    if kind == "cuda":
        return torch.float16
    return torch.bfloat16 if amp is True else torch.float32


class MixedPrecision:
    """Autocast around the network, and the scale of the loss."""

    def __init__(self, dtype: torch.dtype, kind: str) -> None:
        self.dtype, self.kind = dtype, kind
        self.scaler: Any = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)

    def forward(self) -> AbstractContextManager[Any]:
        """Return the context that the network runs in; losses are computed outside of it, in float32."""
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.kind, self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of the loss, which is scaled for float16."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Remove the scale from the gradients."""
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, finite: bool) -> bool:
        """Update the weights, or lower the scale if float16 overflowed, and return whether the weights changed.

        Raises:
            FloatingPointError: the gradient is not finite at any scale.
        """
        if not self.scaler.is_enabled():
            optimizer.step()
            return True
        if not finite and self.scaler.get_scale() < SMALLEST_SCALE:
            raise FloatingPointError("the gradient is not finite in float16 at any scale of the loss")
        self.scaler.step(optimizer)
        self.scaler.update()
        return finite

    def state(self) -> dict[str, Any]:
        """Return the state of the scale; empty without one."""
        return dict(self.scaler.state_dict())

    def load(self, state: dict[str, Any]) -> None:
        """Restore a saved scale, unless it was saved with another type."""
        if state and self.scaler.is_enabled():
            self.scaler.load_state_dict(state)
