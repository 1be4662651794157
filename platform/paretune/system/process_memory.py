"""The memory of this process."""

from __future__ import annotations

import resource
from pathlib import Path


def peak_bytes() -> int:
    """Return the peak resident memory of this process (VmHWM) in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
