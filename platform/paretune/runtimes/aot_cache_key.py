"""Cache key of a compiled program: the network's weights, structure and code, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.target import cpu_flags
from paretune.detectors.base import Detector
from paretune.storage.artefact import STRUCTURE
from paretune.storage.atomic_files import sha256

if TYPE_CHECKING:
    from torch import nn

_LIBRARIES = frozenset({"torch", "torchvision", "pydantic", "pydantic_core", *sys.stdlib_module_names})
"""Packages that are identified by their versions, or that do not affect what a network computes."""
_OURS = ("detectors/**/*.py", "networks/*.py", "runtimes/aot_*.py")
"""Files of Paretune that build and compile networks."""
_THIS_PROCESS = secrets.token_hex()
"""Replacement for the hash of code without a file."""


def key_of(artefact: Path, detector: Detector, part: str, network: nn.Module) -> str:
    """Return a hash of a network's weights, structure and code.

    The code is that of all packages that define classes of the detector and of the network's modules, except torch and
    torchvision, since a class may call code in other files. A class without a file may differ in another process, so
    its programs are compiled in every process.

    Args:
        artefact: folder of the network.
        detector: of the artefact.
        part: name of the network among the detector's.
        network: the network itself.
    """
    digest = hashlib.sha256(json.dumps([detector.named(), part], sort_keys=True).encode())
    for file in (*sorted(artefact.glob("*.safetensors")), artefact / STRUCTURE):
        digest.update(sha256(file).encode())
    classes = {type(detector), *map(type, network.modules())}
    for line in _code({base.__module__ for cls in classes for base in cls.__mro__}):
        digest.update(line.encode())
    return digest.hexdigest()


def surroundings() -> dict[str, Any]:
    """Return the other facts that decide a program: libraries, compiler, threads and CPU."""
    import torch

    chosen = {name: value for name, value in os.environ.items() if name.startswith("TORCHINDUCTOR_")}
    return {
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "threads": torch.get_num_threads(),  # compiled into the program
        "compiler": os.environ.get("CXX"),
        "inductor": {name: value for name, value in chosen.items() if name != "TORCHINDUCTOR_CACHE_DIR"},
        "cpu": [torch.backends.cpu.get_cpu_capability(), sorted(cpu_flags())],
    }


def _code(modules: Iterable[str]) -> list[str]:
    """Return a line with the hash of each source file of the modules' packages, a random one for a missing file."""
    lines: list[str] = []
    for name in sorted({module.partition(".")[0] for module in modules} - _LIBRARIES):
        files = sorted(_sources(name))
        lines += [f"{name} {sha256(file)}" for file in files] or [f"{name} {_THIS_PROCESS}"]
    return lines


def _sources(package: str) -> list[Path]:
    """Return the files of a loaded package or single module."""
    if package == "paretune":
        return [file for pattern in _OURS for file in Path(__file__).parents[1].glob(pattern)]
    module = sys.modules.get(package)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    single = [] if folders else [Path(getattr(module, "__file__", None) or "")]
    inside = [file for folder in folders for file in folder.rglob("*") if file.suffix in {".py", ".so"}]
    return [file for file in (*single, *inside) if file.is_file()]
