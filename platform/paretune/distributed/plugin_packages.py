"""The packages that add plug-ins by entry points, which travel with a submitted sweep."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from paretune.core.errors import UserError

OURS = ("paretune", "paretune-deploy")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".git", ".venv", "node_modules")


@dataclass(frozen=True)
class PluginPackage:
    """An installed package with plug-ins."""

    name: str
    version: str
    plugins: tuple[str, ...]
    """Kind and name of each, such as ``step mystep``."""
    modules: tuple[str, ...]
    """Names of its top-level modules."""
    requires: tuple[str, ...]
    """Requirements, which do not travel with it."""
    files: tuple[tuple[str, str], ...]
    """Name and text of the files by which Python finds its entry points."""

    def line(self) -> str:
        """Return what is told of it when it is submitted."""
        needs = f"; the cluster's Python needs {', '.join(self.requires)}" if self.requires else ""
        return f"takes along {self.name} {self.version} ({', '.join(self.plugins)}){needs}"


def plugin_packages(installed: Iterable[metadata.Distribution] | None = None) -> list[PluginPackage]:
    """Return the installed packages that add plug-ins, by name.

    Args:
        installed: to look through; None takes those of this Python.
    """
    found: dict[str, PluginPackage] = {}
    for package in metadata.distributions() if installed is None else installed:
        points = [point for point in package.entry_points if point.group.startswith("paretune.")]
        name = package.metadata["Name"]
        if not points or name in OURS or name in found:  # the first one on Python's path is the one that is imported
            continue
        named = {point.module.partition(".")[0] for point in points}
        listed = (package.read_text("top_level.txt") or "").split()
        files = (
            ("METADATA", package.read_text("METADATA")),
            ("entry_points.txt", package.read_text("entry_points.txt")),
        )
        found[name] = PluginPackage(
            name=name,
            version=package.version,
            plugins=tuple(sorted(f"{point.group.removeprefix('paretune.')} {point.name}" for point in points)),
            modules=tuple(sorted({*named, *listed})),
            requires=tuple(need for need in package.requires or () if "extra ==" not in need),
            files=tuple((file, text) for file, text in files if text is not None),
        )
    return [found[name] for name in sorted(found)]


def copy_packages(packages: Sequence[PluginPackage], folder: Path) -> None:
    """Copy packages into a folder of Python's path, with the files by which their entry points are found.

    Raises:
        UserError: a module of one cannot be found.
    """
    for package in packages:
        for module in package.modules:
            _copy_module(package, module, folder)
        facts = folder / f"{package.name.replace('-', '_')}-{package.version}.dist-info"
        facts.mkdir()
        for name, text in package.files:
            (facts / name).write_text(text)


def _copy_module(package: PluginPackage, module: str, folder: Path) -> None:
    spec = find_spec(module)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if places:
        for place in places:  # a namespace has several
            shutil.copytree(place, folder / module, ignore=LEFT_OUT, dirs_exist_ok=True)
    elif spec is not None and spec.origin is not None and Path(spec.origin).is_file():
        shutil.copy(spec.origin, folder)
    else:
        raise UserError(f"{package.name} {package.version}: its module {module!r} is not found here: install it again")
