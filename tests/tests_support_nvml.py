"""An NVML with scripted answers, in the place of ``pynvml``.

A value that is an exception is raised; a list is answered item by item, the last one again and again; what can be
called is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from paretune.system import physical_gpu

FIRST, SECOND = "GPU-aaaa1111-0000", "GPU-bbbb2222-0000"


class FakeNvml:
    """GPUs by number, MIG instances by UUID; a handle is the dict of its values."""

    class NVMLError(Exception):
        pass

    def __init__(self, *gpus: dict[str, Any], init: Exception | None = None) -> None:
        self.gpus = list(gpus)
        self.init = init
        self.users = 0
        self.instances: dict[str, dict[str, Any]] = {}
        self.functions: dict[str, Callable[..., Any] | None] = {
            "nvmlInit": lambda: self._opened(1),
            "nvmlShutdown": lambda: self._opened(-1),
            "nvmlSystemGetDriverVersion": lambda: "600.1",
            "nvmlDeviceGetCount": lambda: len(self.gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: self.gpus[index],
            "nvmlDeviceGetHandleByUUID": self._instance,
            "nvmlDeviceIsMigDeviceHandle": lambda handle: int("parent" in handle),
            "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": lambda handle: handle["parent"],
            "nvmlDeviceGetMigMode": lambda handle: answer(handle, "mig"),
            "nvmlDeviceGetName": lambda handle: answer(handle, "name"),
            "nvmlDeviceGetUUID": lambda handle: answer(handle, "uuid"),
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=answer(handle, "percent"), memory=0),
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=answer(handle, "mib") * 2**20),
            "nvmlDeviceGetClockInfo": lambda handle, kind: answer(handle, {1: "sm", 2: "memory_clock"}[kind]),
            "nvmlDeviceGetTemperature": lambda handle, sensor: answer(handle, {0: "celsius"}[sensor]),
            "nvmlDeviceGetPowerUsage": lambda handle: answer(handle, "milliwatts"),
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle: answer(handle, "millijoules"),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle: answer(handle, "bits"),
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
                SimpleNamespace(pid=pid, usedGpuMemory=answer(handle, "used")) for pid in answer(handle, "pids")
            ],
            "nvmlDeviceGetProcessUtilization": self._computed,
        }

    def __getattr__(self, name: str) -> Any:
        """Give a function of NVML; none where it is None."""
        if (found := self.__dict__["functions"].get(name)) is None:
            raise AttributeError(name)
        return found

    def _opened(self, by: int) -> None:
        if self.init is not None:
            raise self.init
        self.users += by

    def _computed(self, handle: dict[str, Any], since: int) -> list[SimpleNamespace]:
        """As NVML: only later samples (µs since 1970), and an error where there are none."""
        told = [(pid, stamp, percent) for pid, stamp, percent in answer(handle, "computed") if stamp > since]
        if not told:
            raise self.NVMLError("Not Found")
        return [SimpleNamespace(pid=pid, timeStamp=stamp, smUtil=percent, memUtil=0) for pid, stamp, percent in told]

    def _instance(self, uuid: str) -> dict[str, Any]:
        if uuid not in self.instances:
            raise self.NVMLError("Not Found")
        return self.instances[uuid]


def answer(handle: dict[str, Any], name: str) -> Any:
    value = handle[name]
    if isinstance(value, list):
        value = value.pop(0) if len(value) > 1 else value[0]
    if callable(value):
        value = value()
    if isinstance(value, Exception):
        raise value
    return value


NOT_SUPPORTED = FakeNvml.NVMLError("Not Supported")


def gpu(**values: Any) -> dict[str, Any]:
    """A GPU that is idle, apart from what is told."""
    idle: dict[str, Any] = {
        "uuid": FIRST,
        "name": "Fake 100",
        "mig": NOT_SUPPORTED,
        "percent": 0,
        "mib": 500,
        "sm": 1200,
        "memory_clock": 1600,
        "celsius": 40,
        "milliwatts": 70_000,
        "millijoules": [1_000_000, 1_007_000],
        "bits": 0x1,
        "pids": (),
        "used": None,
        "computed": (),
    }
    return {**idle, **values}


def stepping(watts: float, step: float = 0.1) -> Any:
    """An energy counter (mJ) that moves every ``step`` seconds."""
    start = time.monotonic()
    return lambda: int((time.monotonic() - start) / step) * int(step * watts * 1000)


def put(monkeypatch: Any, fake: FakeNvml) -> FakeNvml:
    """Put it where ``nvml`` looks."""
    monkeypatch.setattr(physical_gpu, "nvml", lambda: fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    return fake
