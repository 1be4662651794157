"""What a shared library is linked to, and whether it is here."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path


def not_found(file: Path) -> list[str]:
    """Return the names of libraries that a shared library needs and the loader would not find in this process.

    The file itself is not loaded: ONNX Runtime's providers break where anything else loads them first. ``ldd`` only
    looks into folders; what this process has loaded from elsewhere is known by its name from then on. Where there is no
    such file, or no ``ldd``, nothing is known to be missing.
    """
    try:
        said = subprocess.run(["ldd", str(file)], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = [line.split()[0] for line in said.splitlines() if line.endswith("=> not found")]
    return [name for name in dict.fromkeys(names) if not _loads(name)]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
