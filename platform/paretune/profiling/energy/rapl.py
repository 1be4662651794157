"""Energy of the CPU packages by their counters (RAPL), which Linux shows under /sys/class/powercap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class RaplZone:
    """The counter of one package, or of one die; whether it includes memory depends on the CPU."""

    folder: Path
    wraps_at: int
    """Microjoules at which the counter starts again at 0."""

    def microjoules(self) -> int:
        """Return the counter.

        Raises:
            OSError: the counter cannot be read.
        """
        return int((self.folder / "energy_uj").read_text())


def packages(powercap: Path = POWERCAP) -> tuple[RaplZone, ...] | str:
    """Return the zones whose sum is the energy of all packages, or why they cannot be read.

    Since CVE-2020-8694 only root may read them. Parts of a package (``intel-rapl:0:0``) are included in it, ``psys``
    covers more than the packages, and ``intel-rapl-mmio`` shows the same package again.
    """
    zones = []
    for folder in sorted(powercap.glob("intel-rapl:*")):
        try:
            if folder.name.count(":") > 1 or not (folder / "name").read_text().startswith("package"):
                continue
            zone = RaplZone(folder, int((folder / "max_energy_range_uj").read_text()))
            zone.microjoules()
        except PermissionError:
            return f"{folder}/energy_uj may be read by root only"
        except (OSError, ValueError) as error:
            return f"{folder} cannot be read ({getattr(error, 'strerror', None) or error})"
        zones.append(zone)
    return tuple(zones) or f"no counters of the CPU's energy (RAPL) under {powercap}"


def joules(zones: Sequence[RaplZone], before: Sequence[int], after: Sequence[int]) -> float:
    """Return the joules of all zones between two readings in microjoules, less than one turn of a counter apart."""
    spent = sum(
        last - first if last >= first else last - first + zone.wraps_at
        for zone, first, last in zip(zones, before, after, strict=True)
    )
    return spent / 1e6
