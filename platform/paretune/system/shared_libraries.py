"""Libraries that a shared library needs and the loader does not find."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path


def not_found(file: Path) -> list[str]:
    """Return the names of libraries that a shared library needs and the loader would not find in this process.

    The file itself is not loaded, since ONNX Runtime's providers break if anything else loads them first. ``ldd``
    searches folders only; a library that this process has loaded from elsewhere is found by its name. The result is
    empty if there is no such file, or no ``ldd``.
    """
    try:
        output = subprocess.run(["ldd", str(file)], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = [line.split()[0] for line in output.splitlines() if line.endswith("=> not found")]
    return [name for name in dict.fromkeys(names) if not _loads(name)]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
