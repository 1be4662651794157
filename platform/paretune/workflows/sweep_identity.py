"""What all trials of a sweep share, compared when it is resumed: data, space, versions, machine and targets."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from paretune import __version__
from paretune.config.output_folder import SPACE_FILE
from paretune.core.errors import UserError
from paretune.core.hints import command
from paretune.core.types import Data
from paretune.profiling.environment import environment
from paretune.results.sweep_folder import Sweep
from paretune.workflows.like_machines import machine_of

CLUSTER = "http://HEAD:8265"
"""How a cluster is named in a command where its address is not known."""
KEY = "identity"
"""Key of the sweep's file that holds the identity."""
PACKAGES = ("torch", "torchvision", "torch-pruning", "optuna")
"""Packages, besides those of the runtimes, whose versions change what a trial computes."""
_SHOWN = 12
"""Most lines of a difference that are printed."""


def identity_of(sweep: Sweep, data: Data | None, *, elsewhere: bool) -> dict[str, Any]:
    """Return what the trials of a sweep share now, as plain data.

    Args:
        sweep: whose space and target.
        data: of the sweep; None if they can be read on other machines only.
        elsewhere: whether the trials run on other machines, whose facts are not known here.
    """
    facts, space, targets = environment(sweep.job.target), sweep.folder / SPACE_FILE, sweep.job.targets
    machine = None if elsewhere else machine_of(facts)
    packages = {**facts["libraries"], **{name: found for name in PACKAGES if (found := _version(name))}}
    return {
        "space": space.read_text() if space.is_file() else None,
        "data": None
        if data is None
        else {"fingerprint": data.fingerprint, "classes": list(data.classes), **data.facts},
        "packages": None if elsewhere else {"paretune": __version__, **packages},
        "machine": machine,
        "place": {"trials run on": "a Ray cluster" if elsewhere else "this machine"},
        "targets": {name: str(target) for name, target in targets.items()},
    }


def check_identity(
    sweep: Sweep, data: Data | None, say: Callable[[str], None], *, elsewhere: bool = False, accept: bool = False
) -> None:
    """Compare what a sweep's trials share with what it was, and record it.

    Args:
        sweep: begun before or not.
        data: of the sweep; None if they can be read on other machines only.
        say: prints a line.
        elsewhere: whether the trials run on other machines.
        accept: whether a sweep with trials goes on in spite of differences.

    Raises:
        UserError: data, space, versions, machine or targets are not those of the trials so far; with the differences.
    """
    now, before = identity_of(sweep, data, elsewhere=elsewhere), sweep.facts.get(KEY)
    changes = differences(before, now) if before is not None and sweep.begun else []
    left = any(line.startswith("place: ") for line in changes) and not elsewhere
    if changes and not accept:
        raise UserError(
            f"sweep {sweep.name!r} was begun with something else, and its trials would not be comparable:\n"
            + "\n".join(f"  {line}" for line in changes)
            + f"\nrestore it, begin a new sweep, or go on all the same: {sweep.command('resume', '--accept-changes')}"
            + (f"\non its cluster it goes on by: {resume_there(sweep)}" if left else "")
        )
    for line in changes:
        say(f"changed since the sweep began, and accepted: {line}")
    kept = {name: value for name, value in (before or {}).items() if now.get(name) is None}
    if before != {**now, **kept}:
        history = [*sweep.facts.get("changes", ()), *changes]
        sweep.note(**{KEY: {**now, **kept}}, **({"changes": history} if history else {}))


def resume_there(sweep: Sweep) -> str:
    """Return the command that goes on with a sweep on its cluster, whose head knows the output folder."""
    return command("resume", sweep.name, "--address", CLUSTER)


def refuse_without_cluster(sweep: Sweep) -> None:
    """Raise an error if a sweep asks for nodes by custom resources or labels, which a private Ray does not have.

    Raises:
        UserError: names them, and how the sweep goes on.
    """
    job = sweep.whole_job
    asked = [f"resources.custom: {name}" for name in job.resources.custom]
    asked += [f"targets.{name}" for name, target in job.targets.items() if target.elsewhere]
    if asked:
        raise UserError(
            f"sweep {sweep.name!r} asks for nodes of a Ray cluster ({', '.join(asked)}), which this machine alone does "
            f"not have; it goes on there by: {resume_there(sweep)}"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the differences of two identities, a line each; what is unknown in one of them is none."""
    lines = []
    for part in ("data", "packages", "place", "machine", "targets"):
        old, new = before.get(part), now.get(part)
        if old is None or new is None or old == new:
            continue
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        known = [name for name in names if name != "fingerprint"] or names
        lines += [f"{part}: {name}: {_shown(old.get(name))} → {_shown(new.get(name))}" for name in known]
    old, new = before.get("space"), now.get("space")
    if old is not None and new is not None and old != new:
        texts = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0))[2:]
        changed = [line for line in texts if not line.startswith("@@")]
        lines += [f"space: {line}" for line in changed[:_SHOWN]]
        lines += [f"space: {len(changed) - _SHOWN} lines more"] if len(changed) > _SHOWN else []
    return lines


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
