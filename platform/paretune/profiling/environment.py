"""The machine of a measurement: the facts that two measurements must share to be comparable."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paretune.core.devices import device_kind
from paretune.core.spec import fingerprint
from paretune.core.target import Target
from paretune.runtimes import RUNTIMES

LIBRARIES = ("numpy", "opencv-python-headless")
"""Packages whose versions are recorded with a measurement, besides those of the runtimes."""
CPUINFO = Path("/proc/cpuinfo")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def environment(target: Target) -> dict[str, Any]:
    """Return facts of the machine; ``machine`` is equal for two measurements that may be compared.

    The load average is that of the moment; facts that the kernel does not have are ``unknown``.
    """
    machine = {
        "cpu": cpu_name(),
        "machine_cores": os.cpu_count(),
        "architecture": platform.machine(),
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.exists() else "unknown",
        "device": target.device,
        "target_threads": target.threads,
        **device_kind(target.device).facts(),
    }
    return {
        **machine,
        "machine": fingerprint(machine),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "libraries": {name: version for name in _packages() if (version := _version(name))},
        "load_average": round(os.getloadavg()[0], 2),
    }


def cpu_name() -> str:
    """Return the name of the CPU."""
    with suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"model name", "Hardware", "cpu model"}:
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _packages() -> list[str]:
    """Return the packages whose versions decide how fast a network runs, sorted."""
    runtimes = RUNTIMES.loadable()
    return sorted({*LIBRARIES, *(name for runtime in runtimes for name in runtime.packages or runtime.libraries)})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
