"""What decides a compiled program: a network's weights and form, the code that makes it of them, and this machine."""

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
"""Packages that are known by their versions, or have no say in what a network computes."""
_OURS = ("detectors/**/*.py", "networks/*.py", "runtimes/aot_*.py")
"""Files of this package that make networks, and programs of them; the rest of it makes none."""
_THIS_PROCESS = secrets.token_hex()
"""Stands for code that nobody can read."""


def key_of(artefact: Path, detector: Detector, part: str, network: nn.Module) -> str:
    """Return what tells one network from all others: its weights, its form, and the code that makes it of them.

    The code is all of the packages that the classes of the detector and of the network's modules come from, but for
    torch's and torchvision's: a class may call what stands in another file. Of a class that stands in no file nobody
    can know whether it is the same in another process, so there its programs are compiled anew.

    Args:
        artefact: folder that the network was read from.
        detector: of the artefact.
        part: name of the network among the detector's.
        network: whose modules run.
    """
    found = hashlib.sha256(json.dumps([detector.named(), part], sort_keys=True).encode())
    for file in (*sorted(artefact.glob("*.safetensors")), artefact / STRUCTURE):
        found.update(sha256(file).encode())
    classes = {type(detector), *map(type, network.modules())}
    for line in _code({base.__module__ for cls in classes for base in cls.__mro__}):
        found.update(line.encode())
    return found.hexdigest()


def surroundings() -> dict[str, Any]:
    """Return what else decides a program: libraries, compiler and CPU, whose instructions it is written in."""
    import torch

    chosen = {name: value for name, value in os.environ.items() if name.startswith("TORCHINDUCTOR_")}
    return {
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "threads": torch.get_num_threads(),  # they are written into the program
        "compiler": os.environ.get("CXX"),
        "told": {name: value for name, value in chosen.items() if name != "TORCHINDUCTOR_CACHE_DIR"},
        "cpu": [torch.backends.cpu.get_cpu_capability(), sorted(cpu_flags())],
    }


def _code(modules: Iterable[str]) -> list[str]:
    """Return a line for each source file of the packages that modules are of; never the same where there is none."""
    lines: list[str] = []
    for name in sorted({module.partition(".")[0] for module in modules} - _LIBRARIES):
        files = sorted(_sources(name))
        lines += [f"{name} {sha256(file)}" for file in files] or [f"{name} {_THIS_PROCESS}"]
    return lines


def _sources(package: str) -> list[Path]:
    """Return the files of a loaded package, or of a module that is none."""
    if package == "paretune":
        return [file for pattern in _OURS for file in Path(__file__).parents[1].glob(pattern)]
    module = sys.modules.get(package)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    alone = [] if folders else [Path(getattr(module, "__file__", None) or "")]
    inside = [file for folder in folders for file in folder.rglob("*") if file.suffix in {".py", ".so"}]
    return [file for file in (*alone, *inside) if file.is_file()]
