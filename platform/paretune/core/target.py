"""The device on which latency is measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from paretune.core.counts import counted
from paretune.core.devices import DEVICES
from paretune.core.errors import did_you_mean
from paretune.core.fields import Field, field_validator
from paretune.core.registry import Registry
from paretune.core.spec import Spec

BFLOAT16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
"""Kernel flags of CPUs with native bfloat16 products: two of x86, one of ARM."""


_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
SELECTOR = rf"!?(?:{_LABEL}|in\(\s*{_LABEL}(?:\s*,\s*{_LABEL})*\s*\))"
"""Regular expression of the values that Ray's label selectors take."""


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether this machine's CPU has native bfloat16; False if the kernel reports no flags."""
    return not cpu_flags(cpuinfo).isdisjoint(BFLOAT16_FLAGS)


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Return the kernel's flags of this machine's CPU; empty if it reports none."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return frozenset(flags.partition(":")[2].split())


def checked_labels(labels: dict[str, str]) -> dict[str, str]:
    """Return label selectors of Ray.

    Raises:
        ValueError: a value is none.
    """
    for name, value in labels.items():
        if not re.fullmatch(SELECTOR, value):
            raise ValueError(f"{name}: {value!r} is no label: expected a value, !value, in(a, b) or !in(a, b)")
    return labels


Device = str
"""Kind of device that networks run on: a row of ``DEVICES``, or one that an installed runtime declares."""


def known_devices() -> list[str]:
    """Return the devices that a target may be: the table's, and those that installed runtimes declare."""
    installed = Registry[Any]("runtime", {})  # the rows of other packages alone
    declared = (device for name in installed.names for device in getattr(installed.load(name), "devices", ()))
    return list(dict.fromkeys([*DEVICES.names, *declared]))


class Target(Spec):
    """A device and its use during measurements."""

    device: Device = "cpu"
    """Device that the network runs on."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads of the network on a CPU; each is pinned to a core of its own. One thread is the only
    setting whose latency can be trusted on a machine that is shared with others."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the Ray nodes that measure for it, such as `{board: jetson}` for nodes started with `ray start --labels
    board=jetson`; a value may be `in(a, b)` or `!a`. None measures where the trial runs."""
    resources: dict[str, float] = Field(default_factory=dict)
    """Custom resources that a measurement takes from the Ray node that it runs on. None measures where the trial
    runs."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, device: Device) -> Device:
        if device not in DEVICES.rows and device not in (known := known_devices()):
            raise ValueError(
                f"no runtime here runs on {device!r}{did_you_mean(device, known)}; known: {', '.join(known)}"
            )
        return device

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: dict[str, str]) -> dict[str, str]:
        return checked_labels(labels)

    @field_validator("resources")
    @classmethod
    def _check_resources(cls, resources: dict[str, float]) -> dict[str, float]:
        for name, amount in resources.items():
            if amount <= 0 or (amount > 1 and amount != int(amount)):
                raise ValueError(
                    f"{name}: {amount:g} is no amount of a resource: expected a share of 1, or a whole number"
                )
        return resources

    def __hash__(self) -> int:
        return hash((self.device, self.threads, *sorted(self.labels.items()), *sorted(self.resources.items())))

    @property
    def elsewhere(self) -> bool:
        """Return whether it is measured on a Ray node of its own and not where the trial runs."""
        return bool(self.labels or self.resources)

    def on_this_machine(self, cores: int) -> Target:
        """Return the target without its node, with at most as many threads as this machine has cores for it."""
        return Target(device=self.device, threads=min(self.threads, cores)) if self.elsewhere else self

    @property
    def node(self) -> str:
        """Return the labels and resources of its nodes as text."""
        labels = [f"label {name}={value}" for name, value in self.labels.items()]
        return ", ".join([*labels, *(f"resource {name}: {amount:g}" for name, amount in self.resources.items())])

    def __str__(self) -> str:
        threads = counted(self.threads, "thread")
        where = [f"on a node with {self.node}"] if self.elsewhere else []
        return ", ".join([self.device, *([threads] if self.device == "cpu" else []), *where])
