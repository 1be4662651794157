"""Devices by OpenCL, which OpenCV's networks run on."""

from __future__ import annotations

from typing import ClassVar

from paretune.core.devices import DeviceKind


class OpenCl(DeviceKind):
    """A GPU by OpenCL."""

    name: ClassVar[str] = "opencl"

    @property
    def words(self) -> str:
        """Return its name in messages."""
        return "the GPU of OpenCL"
