"""The kinds of devices that a target may be: a row for each says how it is counted, locked, named and watched."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

from paretune.core.registry import Registry
from paretune.core.spec import Spec


class DeviceKind(Spec):
    """A kind of device; the defaults are those of an accelerator of which only the name is known.

    A target names a device by its kind, and perhaps its number: ``cuda`` or ``cuda:1``.
    """

    by_torch: ClassVar[bool] = False
    """True if torch computes on it under this name, so that the runtime ``eager`` runs on it."""
    tolerance: ClassVar[float] = 0.03
    """Smallest relative difference of two latencies that is not a tie, however narrow its interval."""
    narrow: ClassVar[float] = 0.03
    """Half width of a latency's interval, as a share of it, at which a measurement ends."""

    @property
    def words(self) -> str:
        """Return its name in messages, such as ``the GPU``."""
        return f"the {self.name}"

    def count(self) -> int | None:
        """Return the number of devices that this process may use, without importing torch; None if it is not known."""
        return None

    def locks(self, number: int) -> tuple[str, ...]:
        """Return the names of a device's locks, which mean the same in every process of the machine."""
        return (f"{self.name}:{number}" if number else self.name,)

    def facts(self) -> dict[str, str]:
        """Return facts that two measurements on the first device must share to be comparable, such as its name."""
        return {}

    def monitor(self, number: int) -> AbstractContextManager[Any] | None:  # noqa: ARG002 - for overriding
        """Return a context of a monitor like ``profiling.gpu.contention.GpuMonitor``; None if nothing watches it."""
        return None

    def meter(self, number: int) -> Any:  # noqa: ARG002 - for overriding
        """Return a meter like those of ``profiling.energy.meters``, or the reason why its energy is not known."""
        return f"the energy of {self.words} is not measured"


DEVICES: Registry[DeviceKind] = Registry(
    "device", {"cpu": "paretune.profiling.devices:Cpu", "cuda": "paretune.profiling.devices:Cuda"}
)


def device_kind(device: str) -> DeviceKind:
    """Return the kind of a device; one without a row, which only a runtime declares, has the defaults."""
    name = device.partition(":")[0]
    if name in DEVICES.rows:
        return DEVICES.load(name)()
    undescribed: type[DeviceKind] = type("UndescribedDevice", (DeviceKind,), {"name": name, "__module__": __name__})
    return undescribed()


def number_of(device: str) -> int:
    """Return the number in the name of a device: 0 for ``cuda``, 1 for ``cuda:1``."""
    return int(device.partition(":")[2] or 0)


def devices_of_torch() -> tuple[str, ...]:
    """Return the kinds of devices that torch computes on."""
    return tuple(kind.name for kind in DEVICES.loadable() if kind.by_torch)
