"""Measuring NVIDIA GPUs: ``GPUProfiler`` for any code, and who else uses a GPU during a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretune.profiling.gpu.profiler import GPUProfiler

__all__ = ["GPUProfiler"]


def __getattr__(name: str) -> Any:
    """Import ``GPUProfiler`` when it is first used: modules of this package need not load it."""
    if name == "GPUProfiler":
        from paretune.profiling.gpu.profiler import GPUProfiler

        return GPUProfiler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
