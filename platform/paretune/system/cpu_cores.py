"""The cores that are measured on: which ones they are, and what else used them meanwhile."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from paretune.core.errors import UserError

CPUS = Path("/sys/devices/system/cpu")
STAT = Path("/proc/stat")
PRESSURE = Path("/proc/pressure/cpu")
CGROUPS = Path("/sys/fs/cgroup")
FOREIGN, STEAL, THROTTLED = 0.05, 0.02, 0.01
"""Shares of a core, or of the time, above which others' use of our cores makes a measurement contended."""


def threads_unsupported_reason(threads: int) -> str | None:
    """Tell that this process may use fewer cores than threads are asked for; None if there are enough."""
    allowed = len(os.sched_getaffinity(0))
    if threads <= allowed:
        return None
    return f"{threads} threads, each on a core of its own, and this process may use {allowed}: at most {allowed}"


def choose_cores(threads: int) -> list[int]:
    """Return as many of the cores this process may use, each of its own hardware while there are enough.

    The last ones come first, since the first serve most interrupts.

    Raises:
        UserError: there are fewer.
    """
    if problem := threads_unsupported_reason(threads):
        raise UserError(f"{problem} (--threads, or targets.NAME.threads in a job)")
    allowed = sorted(os.sched_getaffinity(0), reverse=True)
    chosen: list[int] = []
    for core in allowed:
        if not siblings([core]) & set(chosen):
            chosen.append(core)
    others = [core for core in allowed if core not in chosen]
    return sorted([*chosen, *others][:threads])


def siblings(cores: Collection[int]) -> set[int]:
    """Return these cores and those that share their hardware (hyper-threads)."""
    found = set(cores)
    for core in cores:
        with suppress(OSError):
            listed = (CPUS / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
            for part in filter(None, listed.split(",")):
                first, _, last = part.partition("-")
                found |= set(range(int(first), int(last or first) + 1))
    return found


def watched(cores: Collection[int], beside: Collection[int] = ()) -> set[int]:
    """Return the cores on which others would disturb what runs on these: with their hyper-threads.

    Args:
        cores: of one process of ours.
        beside: those of our others at the same time, each of which is watched for itself.
    """
    return siblings(cores) - set(beside)


def reading(cores: Collection[int], own: float) -> dict[str, float]:
    """Return clocks, in seconds, that tell together what else used these cores; absent where the kernel keeps none.

    Args:
        cores: logical cores, siblings included.
        own: CPU seconds of the measured process so far.

    Returns:
        ``foreign``: work on the cores other than our own. ``steal``: time the hypervisor took from them.
        ``waiting``: time in which somebody on the machine waited for a core (pressure stall information).
        ``throttled``: time in which a container's CPU quota held us back.
    """
    clocks: dict[str, float] = {}
    with suppress(OSError):
        clocks |= _busy(cores, own)
    with suppress(OSError, StopIteration):
        line = next(line for line in PRESSURE.read_text().splitlines() if line.startswith("some"))
        clocks["waiting"] = int(line.rpartition("total=")[2]) / 1e6
    with suppress(OSError, KeyError):
        usage = dict(line.split() for line in (_cgroup() / "cpu.stat").read_text().splitlines())
        clocks["throttled"] = int(usage["throttled_usec"]) / 1e6
    return clocks


def passed(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what went by on the clocks that both readings have."""
    return {name: after[name] - before[name] for name in before if name in after}


def shares(periods: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the clocks of several periods as shares of their ``seconds``: 1 is a whole core, or all the time.

    A clock that is missing in one of the periods is missing in the answer.
    """
    seconds = sum(period["seconds"] for period in periods)
    names = set.intersection(*(set(period) for period in periods)) - {"seconds"}
    # foreign is busy ticks of 10 ms less our own exact time: it may fall a little below zero
    return {name: max(0.0, sum(period[name] for period in periods)) / seconds for name in sorted(names)}


def contention(elsewhere: Mapping[str, float]) -> list[str]:
    """Say by the shares of a measurement how others disturbed it; nothing when they did not."""
    told = []
    if (foreign := elsewhere.get("foreign", 0)) > FOREIGN:
        told.append(f"others used {foreign:.0%} of a core on the cores measured on")
    if (steal := elsewhere.get("steal", 0)) > STEAL:
        told.append(f"the hypervisor took {steal:.0%} of a core")
    if (throttled := elsewhere.get("throttled", 0)) > THROTTLED:
        told.append(f"the container's CPU quota held us back {throttled:.0%} of the time")
    return told


def _busy(cores: Collection[int], own: float) -> dict[str, float]:
    wanted = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in STAT.read_text().splitlines() if line.split()[0] in wanted]
    if not rows:
        return {}
    tick = os.sysconf("SC_CLK_TCK")
    fields = [list(map(int, row[1:9])) for row in rows]  # user nice system idle iowait irq softirq steal
    work = sum(user + nice + system + irq + soft for user, nice, system, _, _, irq, soft, _ in fields)
    return {"foreign": work / tick - own, "steal": sum(row[7] for row in fields) / tick}


def _cgroup() -> Path:
    """Return the folder of this process's control group (version 2), as seen in or outside a container."""
    line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "0::/")
    folder = CGROUPS / line.removeprefix("0::").strip("/")
    return folder if folder.is_dir() else CGROUPS
