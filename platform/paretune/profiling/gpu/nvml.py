"""Figures of one GPU by NVIDIA's management library (NVML); a figure that it does not give is None, with a reason.

A thin layer over ``pynvml`` (nvidia-ml-py). ``opened`` finds the GPU that CUDA would use in this process
(``physical_gpu``) and keeps the library open for a ``with`` block. An error of NVML becomes an entry of
``Gpu.reasons``, not an exception.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from paretune.system import physical_gpu
from paretune.system.physical_gpu import NoGpuError, errors_of, handle_of, started

BAD_BITS = {
    0x04: "SwPowerCap",
    0x08: "HwSlowdown",
    0x20: "SwThermalSlowdown",
    0x40: "HwThermalSlowdown",
    0x80: "HwPowerBrakeSlowdown",
}
"""Reasons for clocks below those that the work would use: under one of these a measurement is throttled."""
OTHER_BITS = {0x01: "GpuIdle", 0x02: "ApplicationsClocksSetting", 0x10: "SyncBoost", 0x100: "DisplayClockSetting"}
"""Reasons that are only recorded: no work, or clocks that a user chose."""
CLOCK_SM, CLOCK_MEMORY, SENSOR_CORE = 1, 2, 0
"""Values of ``nvmlClockType_t`` and ``nvmlTemperatureSensors_t``."""
COMPUTES = 5
"""Percent of the time from which a process counts as computing; a desktop's clock uses less."""
LARGEST_PID = 2**22
"""Largest process number of Linux; NVML has been seen to return larger ones that belong to no process."""
SPLIT = "MIG is on: the power of a GPU cannot be split between its instances"
UNNAMED = "MIG is on, and CUDA_VISIBLE_DEVICES names no instance (MIG-...)"


@dataclass(frozen=True)
class GpuReading:
    """Figures of a GPU at one moment; None is unknown."""

    at: float
    """Time on the monotonic clock in seconds."""
    utilisation: float | None
    """Share of the driver's last sample period (1/6 s to 1 s) in which a kernel ran, 0 to 1."""
    memory_mib: float | None
    """Memory of all processes."""
    sm_mhz: float | None
    memory_mhz: float | None
    watts: float | None
    """Power, which the driver averages over up to the last second."""
    celsius: float | None
    limits: frozenset[str] | None
    """NVML's names of the reasons why clocks are not higher."""

    @property
    def throttled(self) -> frozenset[str]:
        """Return the limits that make a measurement throttled."""
        return (self.limits or frozenset()) & frozenset(BAD_BITS.values())


class Gpu:
    """One GPU, or one MIG instance of a GPU."""

    def __init__(self, library: Any, handle: Any) -> None:
        """Set the library and one of its handles; the GPU of a MIG instance has the figures that the instance lacks."""
        self._library, self._memory, self._whole = library, handle, handle
        self.reasons: dict[str, str] = {}
        """Figure → why NVML did not give it at the last attempt."""
        self._split: str | None = None
        if self._is_instance(handle):
            self._split = SPLIT
            self._whole = self._ask("gpu", "nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) or handle
        elif (self._ask("mig", "nvmlDeviceGetMigMode", handle) or [0])[0]:
            self._split, self._memory = SPLIT, None
        self.mig = self._split is not None
        self.name: str | None = self._ask("name", "nvmlDeviceGetName", self._whole)
        self.uuid: str | None = self._ask("uuid", "nvmlDeviceGetUUID", handle)
        self.driver: str | None = self._ask("driver", "nvmlSystemGetDriverVersion")

    def read(self) -> GpuReading:
        """Read all figures that change from moment to moment, except energy."""
        at = time.monotonic()
        used = self._shared("utilisation", "nvmlDeviceGetUtilizationRates")
        memory = None
        if self._memory is None:
            self.reasons["memory_mib"] = UNNAMED
        else:
            memory = self._ask("memory_mib", "nvmlDeviceGetMemoryInfo", self._memory)
        watts = self._shared("watts", "nvmlDeviceGetPowerUsage")
        limits = self._ask(
            "limits",
            ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"),
            self._whole,
        )
        return GpuReading(
            at=at,
            utilisation=None if used is None else used.gpu / 100,
            memory_mib=None if memory is None else memory.used / 2**20,
            sm_mhz=self._ask("sm_mhz", "nvmlDeviceGetClockInfo", self._whole, CLOCK_SM),
            memory_mhz=self._ask("memory_mhz", "nvmlDeviceGetClockInfo", self._whole, CLOCK_MEMORY),
            watts=None if watts is None else watts / 1000,
            celsius=self._ask("celsius", "nvmlDeviceGetTemperature", self._whole, SENSOR_CORE),
            limits=None if limits is None else names_of(limits),
        )

    def joules(self) -> float | None:
        """Return the energy since the driver was loaded (Volta and newer); the counter has steps of up to 100 ms."""
        counter = self._shared("energy_j", "nvmlDeviceGetTotalEnergyConsumption")
        return None if counter is None else counter / 1000

    def processes(self) -> dict[int, float | None] | None:
        """Return the processes on the GPU with their memory on it in MiB; None for unknown memory.

        In a container the numbers of the processes may be the host's.
        """
        entries = self._ask("processes", "nvmlDeviceGetComputeRunningProcesses", self._memory or self._whole)
        if entries is None:
            return None
        used: dict[int, float | None] = {}
        for process in entries:  # one has several entries on instances of a GPU
            memory, before = getattr(process, "usedGpuMemory", None), used.get(int(process.pid), 0.0)
            used[int(process.pid)] = None if memory is None or before is None else before + memory / 2**20
        return dict(sorted(used.items()))

    def computed(self, since: float) -> frozenset[int] | None:
        """Return the processes that computed (`COMPUTES`) since a moment by the driver's samples, ended ones included.

        Args:
            since: the moment in seconds since 1970.

        Returns:
            Numbers of the processes; None if NVML does not give them, as with MIG.
        """
        samples = self._ask("computed", "nvmlDeviceGetProcessUtilization", self._whole, int(since * 1e6))
        if samples is None:  # NVML returns an error also when no process computed
            return frozenset() if self.reasons["computed"] == "NVML: not found" else None
        busy = [
            one for one in samples if COMPUTES <= max(one.smUtil, one.memUtil) <= 100
        ]  # NVML also returns percentages above 100
        return frozenset(int(one.pid) for one in busy if 0 < one.pid < LARGEST_PID)

    def _shared(self, figure: str, function: str) -> Any:
        """Ask for a figure that exists only for the whole GPU, not for its instances."""
        if self._split:
            self.reasons[figure] = SPLIT if figure != "utilisation" else "MIG is on: utilisation is not told"
            return None
        return self._ask(figure, function, self._whole)

    def _ask(self, figure: str, functions: str | tuple[str, ...], *given: Any) -> Any:
        """Return the result of the first of these functions that answers; None, with a reason, if none does."""
        library, reason = self._library, ""
        for name in (functions,) if isinstance(functions, str) else functions:
            if (function := getattr(library, name, None)) is None:
                reason = reason or f"this pynvml has no {name}; nvidia-ml-py is the one that is meant"
                continue
            try:
                return function(*given)
            except errors_of(library) as error:
                reason = f"NVML: {str(error).lower()}"
        self.reasons[figure] = reason
        return None

    def _is_instance(self, handle: Any) -> bool:
        answer = self._ask("mig", "nvmlDeviceIsMigDeviceHandle", handle)
        return bool(getattr(answer, "value", answer))  # some versions give a ctypes number


def names_of(bits: int) -> frozenset[str]:
    """Return the names of the bits of NVML's clock event reasons; a bit without a name is named by its number."""
    known = {**BAD_BITS, **OTHER_BITS}
    single = [1 << place for place in range(bits.bit_length()) if bits >> place & 1]
    return frozenset(known.get(bit, f"bit {bit:#x}") for bit in single)


@contextmanager
def opened(device: int | str | None = None, environ: Mapping[str, str] = os.environ) -> Iterator[Gpu]:
    """Open NVML and yield one GPU; NVML counts its users, so that blocks may be nested.

    Args:
        device: CUDA's number of the GPU in this process, or its UUID (the beginning is enough); None is the GPU that
            torch uses at the moment, or the first visible one.
        environ: environment with CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER.

    Raises:
        NoGpuError: there is no library, driver or GPU, or it is not clear which GPU is meant.
    """
    library = physical_gpu.nvml()
    with started(library):
        yield Gpu(library, handle_of(library, device, environ))


def gpu_name() -> str:
    """Return NVML's name of the GPU that CUDA would use, or ``unknown``."""
    with suppress(NoGpuError), opened(0) as gpu:
        return f"{gpu.name or 'unknown'}{' (MIG)' if gpu.mig else ''}"
    return "unknown"
