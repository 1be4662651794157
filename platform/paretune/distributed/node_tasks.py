"""Functions called on a node of the cluster that labels or custom resources name."""

from __future__ import annotations

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
        ClusterNode(node.get("NodeManagerHostname") or node["NodeID"], node["Resources"], node.get("Labels") or {})
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
