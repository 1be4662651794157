"""The front of a sweep on disk, as data, JSON and text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from paretune.config.output_folder import runs_option
from paretune.core.errors import UserError
from paretune.core.hints import command
from paretune.reports import terminal as display
from paretune.results.advice_outcomes import AdviceOutcome, outcomes
from paretune.results.sweep_folder import Sweep
from paretune.search.hypervolume_series import growth_line, hypervolume_series, series_tree
from paretune.search.latency_scale import on_one_scale
from paretune.search.pareto_front import FrontRules, best_point, front_object, objectives_of
from paretune.storage.atomic_files import read_json
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import Record, read_records


def advice_of(sweep: Sweep) -> list[AdviceOutcome]:
    """Return the outcomes of the advice that a sweep tries first; empty if there is none."""
    promises = sweep.promises
    return outcomes(promises, recorded(sweep), comparison_of(sweep)) if promises else []


def recorded(sweep: Sweep) -> list[Record]:
    """Return the records of a sweep as its target has them (`Sweep.on`), with latencies as they were recorded."""
    return [on_target(record, sweep.further) for record in read_records(sweep.folder)]


def records_of(sweep: Sweep) -> list[Record]:
    """Return the records of a sweep as its target has them, with their latencies on one scale."""
    return on_one_scale(recorded(sweep), comparison_of(sweep))


def judge_of(sweep: Sweep) -> FrontRules:
    """Return the rules of a sweep's front."""
    return FrontRules(objectives_of(sweep.job.objectives), sweep.feasible, tuple(sweep.job.constraints))


def front_of(sweep: Sweep, records: Sequence[Record]) -> dict[str, Any]:
    """Return the front of a sweep's records (`records_of`)."""
    judge, comparison = judge_of(sweep), comparison_of(sweep)
    front = front_object(sweep.name, sweep.job.target_name, records, judge, comparison)
    return {**front, "hypervolume_series": series_tree(hypervolume_series(records, judge, comparison))}


def comparison_of(sweep: Sweep) -> dict[str, Any] | None:
    """Return the comparison of the front, or the ``reason`` for its failure; None before the end of the sweep.

    Raises:
        UserError: the file is damaged.
    """
    if not sweep.comparison.exists():
        return None
    again = f"remove it, and measure the front again: {sweep.command('resume')}"
    return read_json(sweep.comparison, again)


def checked_front(sweep: Sweep, target: str | None) -> dict[str, Any]:
    """Return the front of a sweep for one of its targets, by default for the first.

    Raises:
        UserError: the sweep has no such target, or its eager baseline is not measured yet.
    """
    sweep = sweep.on(target)
    front = front_of(sweep, records_of(sweep))
    _refuse_unmeasured(sweep, front)
    return front


def _refuse_unmeasured(sweep: Sweep, front: Mapping[str, Any]) -> None:
    if front["baseline"] is None:
        raise UserError(f"sweep {sweep.name!r} has no front yet: its eager baseline is not measured")


def front_json(sweep: Sweep, target: str | None = None) -> str:
    """Return the front as ``paretune front --json`` prints it.

    Args:
        sweep: whose front.
        target: one of its targets; None is the first one, with the fronts of all below ``targets`` if it has several.

    Raises:
        UserError: the sweep has no such target, or its eager baseline is not measured yet.
    """
    front = front_tree(sweep, target)
    _refuse_unmeasured(sweep, front)
    return json.dumps(front)


def front_tree(sweep: Sweep, target: str | None = None) -> dict[str, Any]:
    """Return the front as ``front_json`` does, as plain data; it is empty before the eager baseline is measured."""
    front = _front_tree(sweep.on(target))
    if target is None and sweep.job.further_targets:
        front |= {"targets": {one.job.target_name: _front_tree(one) for one in sweep.each_target()}}
    return front


def _front_tree(sweep: Sweep) -> dict[str, Any]:
    """Return the front of a sweep's target, what became of advice, and what ended the search."""
    advice = [one.tree() for one in advice_of(sweep)]
    return {**front_of(sweep, records_of(sweep)), "advice": advice, "search_ended": sweep.ended}


def front_text(sweep: Sweep, target: str | None = None) -> str:
    """Return the front as text for the terminal, with the next command to type.

    Args:
        sweep: whose front.
        target: one of its targets; None prints the front of each.
    """
    views = sweep.each_target() if target is None else [sweep.on(target)]
    several = len(sweep.on(None).job.targets) > 1
    parts = []
    for one in views:
        name = one.job.target_name
        parts += [f"target {name} ({one.job.targets[name]})"] if several else []
        parts.append(_front_text(one))
    where = " ".join(str(one.folder / one.of_target("front")) for one in views)
    return "\n".join([*parts, f"pictures: {where}    next: {command('ui', *runs_option(sweep.runs))}"])


def _front_text(sweep: Sweep) -> str:
    """Return the front of a sweep's target as text."""
    front = checked_front(sweep, sweep.further)
    volume = front["hypervolume"]
    kept = "; ".join(f"{metric} {constraint}" for metric, constraint in sweep.job.constraints.items())
    comparison = comparison_of(sweep)
    lines = [display.front_table(front, comparison)]
    if comparison is not None and "reason" in comparison:
        lines.append(f"speed-ups: not known, {comparison['reason']}; to try again: {sweep.command('resume')}")
    elif comparison is not None:
        lines += comparison["notes"]
        lines += (
            ["speed-ups are of CPU time: others used the cores meanwhile"] if comparison.get("mode") == "cpu" else []
        )
    if advice := advice_of(sweep):
        lines.append(display.advice_table([one.tree() for one in advice]))
    if kept:
        lines.append(f"every point keeps: {kept}")
    if volume is not None:
        lines.append(f"hypervolume {volume:.4f}, reference {json.dumps(front['reference'])}")
    lines += [growth] if (growth := growth_line(front["hypervolume_series"])) else []
    lines += [f"the search ended before its last trial: {sweep.ended}"] if sweep.ended else []
    lines += display.doubts(front, comparison)
    if best := front["best"]:
        lines.append(f"{best['claim']}: {sweep.folder / best['artefact']}")
        lines += [best["note"]] if best["note"] else []
        metrics = best_point(front)["metrics"]
        doubts = (display.unsure(name, drop, metrics) for name, drop in sweep.job.max_drops.items())
        lines += [doubt for doubt in doubts if doubt is not None]
    return "\n".join(lines)
