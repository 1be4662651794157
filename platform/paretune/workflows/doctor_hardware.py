"""Checks of this machine's hardware and of what its kernel and drivers let a program read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from paretune.core.devices import device_kind
from paretune.profiling.environment import GOVERNOR, cpu_name
from paretune.system.cpu_cores import CPUS, cgroup, siblings

State = Literal["ok", "absent", "warning", "error"]
"""absent: an optional thing is missing; warning: something works less well; error: Paretune is not usable."""
GIB = 2**30
LITTLE_MEMORY = 2 * GIB
"""Available memory in bytes that may not suffice for a training."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    state: State
    found: str
    remedy: str | None = None
    """What to do; None if nothing is to be done."""


def memory(meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    """Check the memory that processes may still take."""
    known = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    total, free = (int(known[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    limit = ""
    with suppress(OSError, ValueError):
        allowed = int((cgroup() / "memory.max").read_text())
        used = int((cgroup() / "memory.current").read_text())
        total, free = min(total, allowed), min(free, allowed - used)
        limit = " by the container's limit"
    state: State = "warning" if free < LITTLE_MEMORY else "ok"
    remedy = None if state == "ok" else "end other programs, or train with a smaller training.batch_size"
    yield Finding("memory", state, f"{free / GIB:.1f} of {total / GIB:.1f} GiB available{limit}", remedy)


def cores() -> Iterator[Finding]:
    """Check the cores that this process may use, and other work on them."""
    allowed = os.sched_getaffinity(0)
    physical = len({frozenset(siblings([core])) for core in allowed})
    yield Finding("cpu", "ok", f"{cpu_name()}, {len(allowed)} of {os.cpu_count()} cores, {physical} physical")
    with suppress(OSError, ValueError):
        quota, period = (cgroup() / "cpu.max").read_text().split()
        if quota != "max" and int(quota) < len(allowed) * int(period):
            share = int(quota) / int(period)
            remedy = "measure with fewer threads than that, or raise the limit of the container"
            yield Finding("cpu quota", "warning", f"the container may use {share:.2g} cores at a time", remedy)
    load = os.getloadavg()[0]
    if load > 0.5 * len(allowed):
        yield Finding(
            "load", "warning", f"{load:.1f} processes run on {len(allowed)} cores", "end other work before measuring"
        )


def governor(file: Path = GOVERNOR, cpus: Path = CPUS) -> Iterator[Finding]:
    """Check that the frequency of the cores does not follow the load."""
    if not file.is_file():
        yield Finding("governor", "absent", "this kernel shows no frequency governor, as in most virtual machines")
        return
    now = file.read_text().strip()
    turbo = "turbo not known"
    for place, on in (("intel_pstate/no_turbo", "0"), ("cpufreq/boost", "1")):
        with suppress(OSError):
            turbo = "turbo on" if (cpus / place).read_text().strip() == on else "turbo off"
    if now == "performance":
        yield Finding("governor", "ok", f"{now}, {turbo}")
    else:
        remedy = "sudo cpupower frequency-set -g performance, for steadier latencies"
        yield Finding("governor", "warning", f"{now}, {turbo}", remedy)


def gpus() -> Iterator[Finding]:
    """List the NVIDIA GPUs that this process sees, with driver and memory."""
    from paretune.profiling.gpu.nvml import opened
    from paretune.system.physical_gpu import NoGpuError, nvml, started

    try:
        with started(library := nvml()):
            there = int(library.nvmlDeviceGetCount())
    except NoGpuError as error:
        yield Finding("gpu", "absent", f"none, which only targets on a GPU need: {error}")
        return
    seen = device_kind("cuda").count() or 0
    if not seen:
        hidden = f"CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')} hides all {there}"
        yield Finding("gpu", "absent", hidden, "unset CUDA_VISIBLE_DEVICES to use them")
    for number in range(seen):
        with opened(number) as gpu:
            mig = ", MIG" if gpu.mig else ""
            yield Finding(f"gpu {number}", "ok", f"{gpu.name}{mig}, driver {gpu.driver}, {gpu.uuid}")


def energy() -> Iterator[Finding]:
    """Check the permission to read energy of CPU and GPU."""
    remedies = {"cpu": "run as root, or: sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj"}
    for name in ("cpu", "cuda"):
        kind = device_kind(name)
        if kind.count() == 0:
            continue
        if isinstance(meter := kind.meter(0), str):
            remedy = remedies.get(name) if "root only" in meter else None
            yield Finding(f"energy of {kind.words}", "absent", f"not known: {meter}", remedy)
        else:
            yield Finding(f"energy of {kind.words}", "ok", "can be measured")


def nsight() -> Iterator[Finding]:
    """Check Nsight Compute, where there is a GPU that it could look at."""
    from paretune.profiling.nsight.run import preflight
    from paretune.profiling.nsight.run import version as nsight_version

    if not device_kind("cuda").count():
        return
    reason = preflight()
    if reason is None:
        yield Finding("nsight", "ok", f"Nsight Compute {nsight_version()}")
    else:
        yield Finding("nsight", "absent", "Nsight Compute cannot be started", reason)
