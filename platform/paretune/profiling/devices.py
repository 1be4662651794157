"""The devices that Paretune knows itself: rows of ``core.devices.DEVICES``."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from paretune.core.devices import DeviceKind

if TYPE_CHECKING:
    from paretune.profiling.energy.meters import NvmlMeter, RaplMeter
    from paretune.profiling.gpu.contention import GpuMonitor


class Cpu(DeviceKind):
    """The CPU of this machine, of which a target takes some cores."""

    name: ClassVar[str] = "cpu"
    by_torch: ClassVar[bool] = True

    @property
    def words(self) -> str:
        """Return its name in messages."""
        return "the CPU"

    def count(self) -> int:
        """Return 1."""
        return 1

    def meter(self, number: int) -> RaplMeter | str:  # noqa: ARG002 - the only one
        """Return a meter of the CPU's packages, or the reason why their energy is not known."""
        from paretune.profiling.energy.meters import rapl_meter

        return rapl_meter()


class Cuda(DeviceKind):
    """An NVIDIA GPU, or an instance of one, used by CUDA and watched by NVML."""

    name: ClassVar[str] = "cuda"
    by_torch: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.01
    narrow: ClassVar[float] = 0.01

    @property
    def words(self) -> str:
        """Return its name in messages."""
        return "the GPU"

    def count(self) -> int:
        """Return the number of the driver's GPUs that CUDA_VISIBLE_DEVICES leaves."""
        from paretune.system.physical_gpu import HIDDEN, NoGpuError, errors_of, nvml, started

        try:
            library = nvml()
            with started(library):
                count = int(library.nvmlDeviceGetCount())
        except NoGpuError:
            return 0
        except errors_of(library):
            return 0
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            return count
        named = [word.strip() for word in visible.split(",")]
        end = next((place for place, word in enumerate(named) if word in HIDDEN | {"-1"}), len(named))
        return min(count, end)

    def locks(self, number: int) -> tuple[str, ...]:
        """Return the UUID of a GPU, or of all GPUs if it is not clear which one is meant; ``cuda`` without NVML."""
        from paretune.system.physical_gpu import uuids_of

        return uuids_of(number) or (self.name,)

    def facts(self) -> dict[str, str]:
        """Return NVML's name of the GPU that CUDA would use, or ``unknown``."""
        from paretune.profiling.gpu.nvml import gpu_name

        return {"gpu": gpu_name()}

    def monitor(self, number: int) -> AbstractContextManager[GpuMonitor]:
        """Return a context of a monitor by NVML."""
        from paretune.profiling.gpu.contention import nvml_monitor

        return nvml_monitor(number)

    def meter(self, number: int) -> NvmlMeter | str:
        """Return a meter by NVML, or the reason why the energy is not known."""
        from paretune.profiling.energy.meters import nvml_meter

        return nvml_meter(number)
