"""Functions called on a node of the cluster that labels or custom resources name."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paretune.core.errors import NodeLostError, UnfitRuntimeError, UserError, one_line

KINDS = {"UnfitRuntimeError": UnfitRuntimeError, "UserError": UserError, "RuntimeError": RuntimeError}
"""Errors of a function that are raised again by their class, the narrower ones first."""


@dataclass(frozen=True)
class ClusterNode:
    """What a living node of the cluster offers."""

    name: str
    resources: Mapping[str, float]
    """Custom and other resources by Ray's names, used ones included."""
    labels: Mapping[str, str]
    node_id: str = ""
    """Ray's name for it."""


@dataclass(frozen=True)
class NodeRequest:
    """What a function asks of the node that it is called on."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """Ray's label selector: name → value, ``!value``, ``in(a, b)`` or ``!in(a, b)``."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources that the call takes from the node."""

    def __str__(self) -> str:
        labels = [f"label {name}={value}" for name, value in self.labels.items()]
        return ", ".join([*labels, *(f"resource {name}: {amount:g}" for name, amount in self.resources.items())])

    def fits(self, node: ClusterNode) -> bool:
        """Return whether a node has the labels and resources."""
        enough = all(node.resources.get(name, 0) >= amount for name, amount in self.resources.items())
        return enough and all(_label_fits(node.labels.get(name), wanted) for name, wanted in self.labels.items())


def _label_fits(value: str | None, wanted: str) -> bool:
    """Return whether the value of a label is what a selector asks for; a missing label fits negations only."""
    negated, plain = wanted.startswith("!"), wanted.removeprefix("!")
    if plain.startswith("in(") and plain.endswith(")"):
        options = [one.strip() for one in plain[3:-1].split(",")]
    else:
        options = [plain]
    return (value in options) != negated


def cluster_nodes() -> list[ClusterNode]:
    """Return the living nodes of the Ray session."""
    import ray

    return [
        ClusterNode(
            f"{node.get('NodeManagerHostname') or ''} ({node['NodeID'][:6]})",
            node["Resources"],
            node.get("Labels") or {},
            node["NodeID"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def node_missing_reason(request: NodeRequest, nodes: Sequence[ClusterNode]) -> str | None:
    """Return that no node offers what is asked for, with what the nodes offer; None if one does."""
    if any(request.fits(node) for node in nodes):
        return None
    offers = "; ".join(f"{node.name}: {_offer(node)}" for node in nodes) or "none is alive"
    return f"no node of the cluster has {request}; the nodes have: {offers}"


def _offer(node: ClusterNode) -> str:
    """Return labels and custom resources of a node as text, without those that Ray sets by itself."""
    usual = ("CPU", "GPU", "memory", "object_store_memory")
    resources = [f"{n}: {a:g}" for n, a in node.resources.items() if n not in usual and not n.startswith("node:")]
    labels = [f"{name}={value}" for name, value in node.labels.items() if not name.startswith("ray.io/")]
    return ", ".join([*labels, *resources]) or "no labels"


def node_name() -> str:
    """Return the name of the node that this process runs on, as `ClusterNode` has it; that of the host without Ray."""
    host, ray = socket.gethostname(), sys.modules.get("ray")  # a process that has not imported it is no worker
    return f"{host} ({ray.get_runtime_context().get_node_id()[:6]})" if ray and ray.is_initialized() else host


def call_on_each(
    work: Callable[[], Any], nodes: Sequence[ClusterNode], *, seconds: float
) -> dict[str, tuple[Any, str | None]]:
    """Call a function on some nodes, and return its result or why there is none, by the name of the node.

    It takes no CPUs of Ray's, so that it never waits for trials.

    Args:
        work: function without arguments.
        nodes: to call it on.
        seconds: time limit.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    calls, found, end = {}, dict[str, tuple[Any, str | None]](), time.monotonic() + seconds
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=place)(_result_or_error)
        calls[node.name] = task.remote(work)
    for name, call in calls.items():
        try:
            result, kind, why = ray.get(call, timeout=max(0.1, end - time.monotonic()))
            found[name] = (result, None if kind is None else why)
        except GetTimeoutError:
            found[name] = (None, f"gave no answer within {seconds:g} s")
        except RayError as error:
            found[name] = (None, one_line(error))
    return found


def call_on_node(work: Callable[[], Any], request: NodeRequest, *, seconds: float | None = None) -> Any:
    """Call a function on a node that offers what is asked for, and return its result.

    It takes no CPUs of Ray's, so that it never waits for trials that hold them; the locks of the node's devices keep
    two measurements apart. Calls for one custom resource begin in the order in which they were made.

    Args:
        work: function without arguments.
        request: labels and custom resources of the node.
        seconds: time limit, with the waiting for the node; None is no limit.

    Raises:
        NodeLostError: no node offers it, the node or the worker on it died, or the time is over.
        UserError: the function raised one.
        RuntimeError: the function raised one.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError, RayTaskError

    if (reason := node_missing_reason(request, cluster_nodes())) is not None:
        raise NodeLostError(reason)
    task = ray.remote(
        num_cpus=0,
        resources=dict(request.resources) or None,
        label_selector=dict(request.labels) or None,
        max_retries=0,
        scheduling_strategy="DEFAULT",  # else inside of the resources of the trial that asks, which has no such node
    )(_result_or_error)
    call = task.remote(work)
    try:
        result, kind, why = ray.get(call, timeout=seconds)
    except GetTimeoutError as error:
        ray.cancel(call, force=True)
        raise NodeLostError(f"a node with {request} gave no result within {seconds:g} s") from error
    except RayTaskError:  # a fault of ours
        raise
    except RayError as error:
        raise NodeLostError(f"the node with {request}, or the worker on it, died: {one_line(error)}") from error
    if kind is not None:
        raise KINDS[kind](why)
    return result


def _result_or_error(work: Callable[[], Any]) -> tuple[Any, str | None, str]:
    """Return a function's result, or class and text of its error, which Ray would send with a stack."""
    try:
        return work(), None, ""
    except (RuntimeError, UserError) as error:
        kind = next(name for name, one in KINDS.items() if isinstance(error, one))
        return None, kind, str(error)
