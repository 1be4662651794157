"""One point of a sweep's front as a bundle: a copy of its artefact with the reason for the choice."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune import __version__
from paretune.core.errors import UserError
from paretune.results.front_summary import checked_front, comparison_of, judge_of
from paretune.results.pick import Pick, PickRule, figures_of, pick
from paretune.results.sweep_folder import Sweep
from paretune.storage.artefact import BUNDLE, MANIFEST, read_artefact
from paretune.storage.atomic_files import new_folder, sha256

FOLDER = "picked"
"""Folder of the bundles in the sweep's folder: ``picked/RULE``."""
VERSION = 1


def pick_from(sweep: Sweep, rule: PickRule, target: str | None = None) -> Pick:
    """Return the point of a sweep's front that a rule chooses, by default on its first target.

    Raises:
        UserError: no such target, no front yet, or no point keeps the rule.
    """
    return pick(checked_front(sweep, target), rule, judge_of(sweep.on(target)))


def write_bundle(sweep: Sweep, chosen: Pick, out: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Copy the artefact of a chosen point, and write why it was chosen beside its files; whole or not at all.

    Args:
        sweep: whose front it is, as the target of the choice has it (`Sweep.on`).
        chosen: point of the front.
        out: folder to make; None writes ``picked/RULE`` in the sweep's folder and replaces an older bundle there.

    Returns:
        The folder, and the contents of its ``bundle.json``.

    Raises:
        UserError: the artefact is missing or damaged, or the folder exists or cannot be written.
    """
    source = sweep.folder / str(chosen.point["artefact"])
    read_artefact(source, files=False)
    folder = out or sweep.folder / FOLDER / sweep.of_target(chosen.rule.slug)
    try:
        with new_folder(folder, replace=out is None) as draft:
            shutil.copytree(source, draft, dirs_exist_ok=True)
            read_artefact(draft)
            facts = _facts(sweep, chosen, sha256(draft / MANIFEST))
            (draft / BUNDLE).write_text(json.dumps(facts, indent=1))
    except FileExistsError:
        raise UserError(f"{folder} exists already; name a new folder with --out") from None
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder, facts


def _facts(sweep: Sweep, chosen: Pick, artefact_sha256: str) -> dict[str, Any]:
    """Return the contents of ``bundle.json``."""
    point, rule, comparison = chosen.point, chosen.rule, comparison_of(sweep) or {}
    test = (point["test"] or {}).get("metrics")
    return {
        "paretune_bundle": VERSION,
        "paretune": __version__,
        "made": time.time(),
        "sweep": sweep.name,
        "trial": point["trial"],
        "target": {"name": sweep.job.target_name, **sweep.job.target.tree()},
        "rule": {"kind": rule.kind, "metric": rule.metric, "limit": rule.limit},
        "why": list(chosen.why),
        "recipe": point["recipe"],
        "figures": figures_of(point["metrics"]),
        "test": None if test is None else figures_of(test),
        "speedups": (comparison.get("trials") or {}).get(str(point["trial"])),
        "latency_mode": point["latency_mode"],
        "unstable": point["unstable"],
        "tied_with": point["tied_with"],
        "neighbours": {"cheaper": _neighbour(chosen.cheaper), "better": _neighbour(chosen.better)},
        "artefact_sha256": artefact_sha256,
    }


def _neighbour(point: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return trial, recipe and figures of a neighbour on the front."""
    if point is None:
        return None
    return {"trial": point["trial"], "recipe": point["recipe"], "figures": figures_of(point["metrics"])}
