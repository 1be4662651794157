"""The keys of stages: hashes of everything that a stage's result depends on.

A key covers the key of the stage before, the step with all its fields, the parts of the context that the step declares
(`Step.uses`), its revision, and the versions of the libraries that it names.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from paretune import __version__
from paretune.compression.base import Context, ContextPart, Step
from paretune.core.spec import fingerprint
from paretune.core.types import InputSize
from paretune.profiling.environment import environment
from paretune.storage.artefact import STRUCTURE, WEIGHTS, facts_of
from paretune.storage.atomic_files import sha256


def network_key(folder: Path, context: Context, size: InputSize, past: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the key of a trained network at an input size, from which the steps of a recipe start.

    Args:
        folder: of the network.
        context: of the trial.
        size: input size of the recipe.
        past: steps already applied to the network, as they are written.

    Raises:
        OSError: the network cannot be read.
    """
    return fingerprint(network_digest(folder), context.detector.named(), context.classes, str(size), list(past))


def step_key(before: str, step: Step, context: Context) -> str:
    """Return the key of the result of a step.

    Args:
        before: key of the model that the step takes.
        step: with its fields.
        context: of the trial.

    Raises:
        OSError: the network of a teacher cannot be read.
    """
    values = {part: _VALUES[part](context) for part in sorted(step.uses())}
    others = [facts_of(folder) for folder in step.other_networks()]
    return fingerprint(before, step.named(), step.revision, values, others, _versions(step.libraries))


def network_digest(folder: Path) -> list[str]:
    """Return the hashes of a network's weights and structure.

    Raises:
        OSError: the network cannot be read.
    """
    stats = [(folder / name).stat() for name in (WEIGHTS, STRUCTURE)]
    return _digests(str(folder.absolute()), tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats))


@functools.lru_cache(maxsize=64)
def _digests(folder: str, _files: tuple[tuple[int, ...], ...]) -> list[str]:
    return [sha256(Path(folder) / name) for name in (WEIGHTS, STRUCTURE)]


@functools.lru_cache(maxsize=32)
def _versions(libraries: tuple[str, ...]) -> dict[str, str | None]:
    """Return the versions of this package and of libraries; None for those that are not installed."""
    versions: dict[str, str | None] = {"paretune": __version__}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions


def _baseline(context: Context) -> Any:
    return None if context.baseline is None else network_digest(context.baseline)


_VALUES: Mapping[ContextPart, Any] = {
    "data": lambda context: context.data.fingerprint,
    "training": lambda context: context.training.as_computed(),
    "seed": lambda context: context.seed,
    "baseline": _baseline,
    "runtime": lambda context: None if context.runtime is None else context.runtime.named(),
    "target": lambda context: context.target.tree(),
    "thresholds": lambda context: vars(context.thresholds),
    "machine": lambda context: environment(context.target)["machine"],
}
"""Part of a context → function that returns its value as plain data."""
