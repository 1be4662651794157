"""The cores of a measurement: their choice, and others' use of them in the meantime."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from paretune.core.errors import UserError

CPUS = Path("/sys/devices/system/cpu")
STAT = Path("/proc/stat")
PRESSURE = Path("/proc/pressure/cpu")
CGROUPS = Path("/sys/fs/cgroup")
FOREIGN, STEAL, THROTTLED = 0.05, 0.02, 0.01
"""Shares of a core, or of the time, above which others' use of the cores makes a measurement contended."""


def threads_unsupported_reason(threads: int) -> str | None:
    """Return that this process may use fewer cores than the threads need; None if there are enough."""
    allowed = len(os.sched_getaffinity(0))
    if threads <= allowed:
        return None
    return f"{threads} threads, each on a core of its own, and this process may use {allowed}: at most {allowed}"


def choose_cores(threads: int) -> list[int]:
    """Return cores that this process may use, on separate hardware if there are enough.

    The last cores are preferred, since the first ones serve most interrupts.

    Raises:
        UserError: there are too few cores.
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


@contextmanager
def process_on(cores: Collection[int]) -> Iterator[None]:
    """Run all threads of this process on some cores while the block runs; threads begun in it stay there until its end.

    Args:
        cores: that this process may use.
    """
    before = os.sched_getaffinity(0)
    _move(cores)
    try:
        yield
    finally:
        _move(before)


def _move(cores: Collection[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # the thread has ended
            os.sched_setaffinity(int(task.name), cores)


def separate_cores(threads: int) -> tuple[list[int], list[int]] | str:
    """Return the cores to measure on and those to work on meanwhile, which share no hardware, or why there are none.

    Args:
        threads: of the target; as many separate cores must be left to work on, since what is measured is evaluated
            there too.
    """
    allowed = os.sched_getaffinity(0)
    if threads_unsupported_reason(threads) is not None:
        return f"{len(allowed)} cores are too few for {threads} threads"
    measuring = choose_cores(threads)
    working = sorted(allowed - siblings(measuring))
    if len({frozenset(siblings([core])) for core in working}) < threads:
        return f"beside the {threads} to measure on, this process may use no {threads} cores with hardware of their own"
    return measuring, working


def siblings(cores: Collection[int]) -> set[int]:
    """Return these cores and the cores that share their hardware (hyper-threads)."""
    numbers = set(cores)
    for core in cores:
        with suppress(OSError):
            listed = (CPUS / f"cpu{core}/topology/thread_siblings_list").read_text().strip()
            for part in filter(None, listed.split(",")):
                first, _, last = part.partition("-")
                numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def watched(cores: Collection[int], beside: Collection[int] = ()) -> set[int]:
    """Return the cores on which other work disturbs a process: its own cores and their hyper-threads.

    Args:
        cores: cores of the process.
        beside: cores of our other processes at the same time, which are watched separately.
    """
    return siblings(cores) - set(beside)


def reading(cores: Collection[int], own: float) -> dict[str, float]:
    """Return the kernel's clocks of others' use of these cores in seconds; clocks that it does not keep are missing.

    Args:
        cores: logical cores, hyper-threads included.
        own: CPU seconds of the measured process so far.

    Returns:
        ``foreign``: work of others on the cores. ``steal``: time that the hypervisor took from them. ``waiting``: time
        in which a process of the machine waited for a core (pressure stall information). ``throttled``: time in which
        the CPU quota of the container held this process back.
    """
    clocks: dict[str, float] = {}
    with suppress(OSError):
        clocks |= _busy(cores, own)
    with suppress(OSError, StopIteration):
        line = next(line for line in PRESSURE.read_text().splitlines() if line.startswith("some"))
        clocks["waiting"] = int(line.rpartition("total=")[2]) / 1e6
    with suppress(OSError, KeyError):
        usage = dict(line.split() for line in (cgroup() / "cpu.stat").read_text().splitlines())
        clocks["throttled"] = int(usage["throttled_usec"]) / 1e6
    return clocks


def passed(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the difference of two readings for the clocks that both have."""
    return {name: after[name] - before[name] for name in before if name in after}


def shares(periods: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the clocks of several periods as shares of their ``seconds``; 1 is a whole core, or all the time.

    A clock that is missing in one of the periods is left out.
    """
    seconds = sum(period["seconds"] for period in periods)
    names = set.intersection(*(set(period) for period in periods)) - {"seconds"}
    # foreign is busy ticks of 10 ms minus our own exact time, and may be slightly negative
    return {name: max(0.0, sum(period[name] for period in periods)) / seconds for name in sorted(names)}


def contention(elsewhere: Mapping[str, float]) -> list[str]:
    """Return how others disturbed a measurement, by its shares; empty if they did not."""
    disturbances = []
    if (foreign := elsewhere.get("foreign", 0)) > FOREIGN:
        disturbances.append(f"others used {foreign:.0%} of a core on the cores measured on")
    if (steal := elsewhere.get("steal", 0)) > STEAL:
        disturbances.append(f"the hypervisor took {steal:.0%} of a core")
    if (throttled := elsewhere.get("throttled", 0)) > THROTTLED:
        disturbances.append(f"the container's CPU quota held us back {throttled:.0%} of the time")
    return disturbances


def _busy(cores: Collection[int], own: float) -> dict[str, float]:
    names = {f"cpu{core}" for core in cores}
    rows = [line.split() for line in STAT.read_text().splitlines() if line.split()[0] in names]
    if not rows:
        return {}
    tick = os.sysconf("SC_CLK_TCK")
    fields = [list(map(int, row[1:9])) for row in rows]  # user nice system idle iowait irq softirq steal
    work = sum(user + nice + system + irq + soft for user, nice, system, _, _, irq, soft, _ in fields)
    return {"foreign": work / tick - own, "steal": sum(row[7] for row in fields) / tick}


def cgroup() -> Path:
    """Return the folder of this process's control group (version 2), inside or outside of a container."""
    line = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")), "0::/")
    folder = CGROUPS / line.removeprefix("0::").strip("/")
    return folder if folder.is_dir() else CGROUPS
