"""One trial of a sweep as a bundle: its artefact with the figures and the reason for the choice."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.results.front_summary import checked_front, comparison_of, judge_of, records_of
from paretune.results.pick import Pick, PickRule, figures_of, pick
from paretune.results.sweep_folder import Sweep
from paretune.search.pareto_front import point_of
from paretune.storage.trial_record import read_record
from paretune.workflows.bundle import write_copy

FOLDER = "picked"
"""Folder of the bundles in the sweep's folder: ``picked/RULE``."""
MACHINE = ("cpu", "gpu", "machine_cores", "architecture", "kernel", "python", "runtime", "provider", "precision")
"""Facts of a record that describe where its figures come from."""


def pick_from(sweep: Sweep, rule: PickRule, target: str | None = None) -> Pick:
    """Return the point of a sweep's front that a rule chooses, by default on its first target.

    Raises:
        UserError: no such target, no front yet, or no point keeps the rule.
    """
    return pick(checked_front(sweep, target), rule, judge_of(sweep.on(target)))


def trial_of(sweep: Sweep, number: int, target: str | None = None) -> Pick:
    """Return a trial as a choice, whether or not it is on the front.

    Raises:
        UserError: no such trial, or it has no artefact.
    """
    front = checked_front(sweep, target)
    for point in front["front"]:
        if point["trial"] == number:
            return Pick(PickRule("trial", number), point, ("named by --trial",), None, None)
    record = read_record(sweep.on(target).folder, number)
    if record is None or record.artefact is None:
        state = "no trial" if record is None else f"no artefact of trial {number}, which is {record.state}:"
        raise UserError(f"sweep {sweep.name!r} has {state} {number}")
    shown = point_of(record, comparison_of(sweep.on(target)))
    return Pick(PickRule("trial", number), shown, ("named by --trial; it is not on the front",), None, None)


def write_bundle(sweep: Sweep, chosen: Pick, out: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Write the artefact of a chosen point as a bundle, with its figures and why it was chosen.

    Args:
        sweep: whose front it is, as the target of the choice has it (`Sweep.on`).
        chosen: point of the front.
        out: folder to make; None writes ``picked/RULE`` in the sweep's folder and replaces an older bundle there.

    Returns:
        The folder, and the contents of its ``bundle.json``.

    Raises:
        UserError: the artefact is missing or damaged, or the folder exists or cannot be written.
    """
    folder = out or sweep.folder / FOLDER / sweep.of_target(chosen.rule.slug)
    source = sweep.folder / str(chosen.point["artefact"])
    return folder, write_copy(source, folder, _facts(sweep, chosen), sweep.job.target, replace=out is None)


def _facts(sweep: Sweep, chosen: Pick) -> dict[str, Any]:
    """Return what ``bundle.json`` says of a chosen point."""
    point, rule, comparison = chosen.point, chosen.rule, comparison_of(sweep) or {}
    records = {record.number: record for record in records_of(sweep)}
    record, eager = records[point["trial"]], records.get(0)
    test = (point["test"] or {}).get("metrics")
    others = {
        other.job.target_name: figures_of(found.metrics)
        for other in sweep.each_target()
        if other.job.target_name != sweep.job.target_name
        for found in records_of(other)
        if found.number == record.number
    }
    return {
        "made": time.time(),
        "sweep": sweep.name,
        "trial": point["trial"],
        "target": {"name": sweep.job.target_name, **sweep.job.target.tree()},
        "rule": {"kind": rule.kind, "metric": rule.metric, "limit": rule.limit},
        "why": list(chosen.why),
        "recipe": point["recipe"],
        "figures": figures_of(point["metrics"]),
        "reasons": dict(record.reasons),
        "baseline": None if eager is None else figures_of(eager.metrics),
        "other_targets": others,
        "per_class": record.facts.get("classes"),
        "test": None if test is None else figures_of(test),
        "speedups": (comparison.get("trials") or {}).get(str(point["trial"])),
        "latency_mode": point["latency_mode"],
        "unstable": point["unstable"],
        "tied_with": point["tied_with"],
        "neighbours": {"cheaper": _neighbour(chosen.cheaper), "better": _neighbour(chosen.better)},
        "machine": {name: record.facts[name] for name in MACHINE if name in record.facts},
        "libraries": record.facts.get("libraries"),
        "data": {"dataset": sweep.facts["job"].get("dataset"), **(sweep.facts.get("data") or {})},
    }


def _neighbour(point: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return trial, recipe and figures of a neighbour on the front."""
    if point is None:
        return None
    return {"trial": point["trial"], "recipe": point["recipe"], "figures": figures_of(point["metrics"])}
