"""One machine for each target: a front never holds latencies of unlike ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from paretune.config.job import Job
from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.distributed.node_tasks import ClusterNode, NodeRequest, call_on_each
from paretune.profiling.environment import environment
from paretune.results.sweep_folder import Sweep
from paretune.workflows.machine_check import trial_nodes

MACHINE = ("cpu", "machine_cores", "architecture", "device", "gpu")
"""Facts that two machines share whose latencies are compared."""
MACHINES = "machines"
"""Key of a sweep's file: target → facts of the machine that measures for it, of a sweep on a cluster."""
ANSWER_S = 120.0
"""Seconds in which a node tells what it is: its first process imports the package."""

AskNodes = Callable[[Callable[[], Any], Sequence[ClusterNode]], Mapping[str, tuple[Any, str | None]]]
"""Function of a function and nodes that returns its result, or why there is none, by the name of the node."""


def machine_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a machine that are compared."""
    return {name: facts[name] for name in MACHINE if name in facts}


def note_machines(
    sweep: Sweep, nodes: Sequence[ClusterNode], *, accept: bool = False, ask: AskNodes | None = None
) -> None:
    """Ask the nodes that may measure for each target what they are, and note it in the sweep's file.

    Args:
        sweep: before its first trial, or resumed.
        nodes: of the cluster.
        accept: whether a sweep with trials goes on although a target's machine is another one now.
        ask: calls a function on nodes; None does it by Ray.

    Raises:
        UserError: unlike nodes may measure for one target, none tells what it is, or it is another machine than before.
    """
    ask = ask or partial(call_on_each, seconds=ANSWER_S)
    found, before = dict[str, dict[str, Any]](), sweep.facts.get(MACHINES) or {}
    for name, target in sweep.whole_job.targets.items():
        found[name] = _machine(name, target, measuring_nodes(sweep.whole_job, target, nodes), ask)
        changed = difference(before.get(name), found[name])
        if changed and sweep.begun and not accept:
            again = sweep.command("resume", "--address", "http://HEAD:8265", "--accept-changes")
            raise UserError(
                f"targets.{name}: measured on another machine than before: {changed}\n"
                f"let that one measure, begin a new sweep, or go on all the same: {again}"
            )
    sweep.note(**{MACHINES: found})


def measuring_nodes(job: Job, target: Target, nodes: Sequence[ClusterNode]) -> list[ClusterNode]:
    """Return the nodes that may measure for a target: its own, else those that may run a trial."""
    if target.elsewhere:
        request = NodeRequest(target.labels, target.resources)
        return [node for node in nodes if request.fits(node)]
    wanted = job.resources.by_ray_name()
    return [
        node
        for node in trial_nodes(job, nodes)
        if all(node.resources.get(name, 0) >= amount for name, amount in wanted.items())
    ]


def _machine(name: str, target: Target, nodes: Sequence[ClusterNode], ask: AskNodes) -> dict[str, Any]:
    """Return the machine that measures for a target.

    Raises:
        UserError: the nodes are unlike, or none tells what it is.
    """
    told = ask(partial(environment, target), nodes)
    kinds = defaultdict[tuple[Any, ...], list[str]](list)
    for node, (facts, why) in told.items():
        if why is None:
            kinds[tuple(sorted(machine_of(facts).items(), key=str))].append(node)
    if not kinds:
        reasons = "; ".join(f"{node}: {why}" for node, (_, why) in told.items()) or "no node may run a trial"
        raise UserError(f"targets.{name}: no node tells what machine it is: {reasons}")
    if len(kinds) > 1:
        lines = [f"  {', '.join(nodes)}: {_words(dict(kind))}" for kind, nodes in kinds.items()]
        raise UserError(
            f"targets.{name}: unlike nodes would measure for it, and one front holds one machine:\n"
            + "\n".join(lines)
            + f"\nname nodes of one kind with targets.{name}.labels or targets.{name}.resources"
        )
    return dict(next(iter(kinds)))


def difference(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Return in what a machine differs from another as text; empty if it does not, or the other is not known."""
    names = [name for name in MACHINE if name in (before or {}) and before and before[name] != now.get(name)]
    return ", ".join(f"{name}: {before[name]} → {now.get(name)}" for name in names if before)


def _words(machine: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items())
