"""What a Ray cluster has against what a job needs, check by check, each failure with its remedy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

from paretune.config.job import Job
from paretune.core.errors import UserError
from paretune.distributed.cluster_probe import ProbedCluster, ProbedNode, probe_cluster
from paretune.distributed.node_tasks import NodeRequest, node_missing_reason
from paretune.distributed.ray_session import refuse_unless_fits
from paretune.tracking.mlflow_client import LogPlace
from paretune.workflows.doctor_hardware import Finding
from paretune.workflows.machine_check import refuse_small_cluster

SKEW_S = 2.0
"""Seconds by which two clocks may differ: records and logs are sorted by time."""


def examine_cluster(address: str, job: Job | None) -> list[Finding]:
    """Return the results of all checks of a cluster, for a job or in general.

    Raises:
        UserError: no cluster answers, or its nodes cannot be asked.
    """
    required = required_packages()
    if job is None:
        return cluster_findings(probe_cluster(address, list(required)), None, required)
    server = LogPlace.of(Path(job.output), "check", job.tracking.uri, None).address if job.tracking.uri else None
    found = probe_cluster(
        address,
        list(required),
        output=job.output,
        folders=sorted(set(folders_in(job.tree()["dataset"])) | ({job.baseline} if job.baseline else set())),
        servers=[server] if server else [],
    )
    return cluster_findings(found, job, required)


def required_packages() -> dict[str, str]:
    """Return the packages that Paretune requires without its extras: name → specifier; empty if it is not installed."""
    from packaging.requirements import Requirement

    try:
        told = [Requirement(one) for one in requires("paretune") or ()]
    except PackageNotFoundError:
        return {}
    return {one.name: str(one.specifier) for one in told if one.marker is None or one.marker.evaluate({"extra": ""})}


def folders_in(tree: Any) -> Iterator[str]:
    """Return the absolute paths that stand in plain data."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from folders_in(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from folders_in(value)
    elif isinstance(tree, str) and tree.startswith("/"):
        yield tree


def cluster_findings(cluster: ProbedCluster, job: Job | None, required: Mapping[str, str]) -> list[Finding]:
    """Return the results of all checks.

    Args:
        cluster: what its nodes said.
        job: to run there; None checks what every job needs.
        required: package → specifier of its versions.
    """
    nodes = [node for node in cluster.nodes if node.failure is None]
    found = [
        *_nodes(cluster.nodes),
        *_versions(nodes, required),
        *_clocks(nodes),
        *_locks(nodes),
    ]
    if job is not None:
        trials = [node for node in nodes if _has(node, job)]
        found += [*_room(job, nodes), *_targets(job, nodes, trials), *_storage(cluster, nodes, trials, job)]
    for server, why in cluster.reached.items():
        remedy = "start it, or name one that the head reaches; without it a sweep runs, and `sync` logs it later"
        if why is None:
            found.append(Finding("mlflow", "ok", f"the head reaches {server}"))
        else:
            found.append(Finding("mlflow", "warning", f"the head does not reach {server}: {why}", remedy))
    return found


def _nodes(nodes: Sequence[ProbedNode]) -> Iterator[Finding]:
    if not nodes:
        yield Finding("nodes", "error", "none is alive", "start one: ray start --address HEAD:6379")
    for node in nodes:
        if node.failure is not None:
            remedy = "look at its log, or take it out of the cluster: ray stop"
            yield Finding("node", "error", f"{node.name}: {node.failure}", remedy)
            continue
        gpus = f", {', '.join(node.gpus)}" if node.gpus else ""
        labels = {name: text for name, text in node.labels.items() if not name.startswith("ray.io/")}
        told = "".join(f", {name}={text}" for name, text in labels.items())
        yield Finding("node", "ok", f"{node.name}: {node.cpu}, {node.cores} cores{gpus}{told}")


def _versions(nodes: Sequence[ProbedNode], required: Mapping[str, str]) -> Iterator[Finding]:
    """Check that each node has what Paretune requires, and that all have the same."""
    from packaging.specifiers import SpecifierSet

    whole = True
    for node in nodes:
        wrong = {
            f"{name}{wanted}": node.packages.get(name)
            for name, wanted in required.items()
            if (now := node.packages.get(name)) is None or not SpecifierSet(wanted).contains(now, prereleases=True)
        }
        if wrong:
            whole = False
            told = ", ".join(f"{wanted} ({now or 'not installed'})" for wanted, now in wrong.items())
            remedy = f"on that node: pip install {' '.join(repr(wanted) for wanted in wrong)}"
            yield Finding("packages", "error", f"{node.name}: {len(wrong)} are not as required: {told}", remedy)
    pythons = {node.python: node.name for node in nodes}
    if len({python.rpartition(".")[0] for python in pythons}) > 1:
        whole = False
        told = ", ".join(f"{python} on {name}" for python, name in sorted(pythons.items()))
        yield Finding("python", "error", f"the nodes differ: {told}", "give all nodes one version of Python")
    for name in ("ray", *(one for one in required if one != "ray" and not one.startswith("ray"))):
        versions = {node.packages.get(name): node.name for node in nodes if node.packages.get(name)}
        if len(versions) > 1:
            whole = False
            told = ", ".join(f"{text} on {node}" for text, node in sorted(versions.items(), key=str))
            remedy = f"install one version of {name} on all nodes: figures of different versions are not comparable"
            yield Finding("packages", "error" if name == "ray" else "warning", f"{name}: {told}", remedy)
    if whole and nodes:
        yield Finding("packages", "ok", f"{len(required)} as required, the same on all nodes")


def _clocks(nodes: Sequence[ProbedNode]) -> Iterator[Finding]:
    for node in nodes:
        if abs(node.skew) - node.skew_error > SKEW_S:
            ahead = "ahead of" if node.skew > 0 else "behind"
            remedy = "set the clocks by NTP, such as `timedatectl set-ntp true`"
            yield Finding("clock", "warning", f"{node.name} is {abs(node.skew):.1f} s {ahead} the head", remedy)


def _locks(nodes: Sequence[ProbedNode]) -> Iterator[Finding]:
    """Check that nodes of one host lock its devices in one folder."""
    hosts = defaultdict[str, list[ProbedNode]](list)
    for node in nodes:
        hosts[node.boot].append(node)
    for boot, together in hosts.items():
        if boot and len({tuple(node.locks[1:]) for node in together}) > 1:
            names = ", ".join(f"{node.name}: {node.locks[0]}" for node in together)
            remedy = "give them one folder: PARETUNE_LOCKS=/a/folder/of/the/host, mounted into each container"
            yield Finding("device lock", "error", f"nodes of one host do not see each other's locks: {names}", remedy)


def _has(node: ProbedNode, job: Job) -> bool:
    """Return whether a trial may run on a node."""
    return all(node.resources.get(name, 0) >= amount for name, amount in job.resources.by_ray_name().items())


def _room(job: Job, nodes: Sequence[ProbedNode]) -> Iterator[Finding]:
    try:
        refuse_unless_fits(job.resources.by_ray_name(), "a trial", [node.resources for node in nodes])
        refuse_small_cluster(job, [node.resources for node in nodes])
    except UserError as error:
        yield Finding("resources", "error", str(error), "ask for less in `resources` or `training`, or add nodes")
        return
    names = ", ".join(node.name for node in nodes if _has(node, job))
    yield Finding("trials", "ok", f"train, export and evaluate on: {names}")


def _targets(job: Job, nodes: Sequence[ProbedNode], trials: Sequence[ProbedNode]) -> Iterator[Finding]:
    """Check that some nodes measure for each target, and that they are alike."""
    for name, target in job.targets.items():
        request = NodeRequest(target.labels, target.resources)
        if target.elsewhere and (reason := node_missing_reason(request, [node.offer for node in nodes])):
            remedy = "start such a node (`ray start --labels …`), or change the target"
            yield Finding(f"target {name}", "error", reason, remedy)
            continue
        own = [node for node in nodes if request.fits(node.offer)] if target.elsewhere else trials
        kinds = defaultdict[tuple[Any, ...], list[str]](list)
        for node in own:
            kinds[node.machine].append(node.name)
        if len(kinds) > 1:
            told = "; ".join(f"{', '.join(names)}: {_machine(kind)}" for kind, names in kinds.items())
            remedy = f"name nodes of one kind with targets.{name}.labels or .resources: one front holds one machine"
            yield Finding(f"target {name}", "error", f"unlike nodes would measure for it: {told}", remedy)
        elif kinds:
            names = ", ".join(node.name for node in own)
            yield Finding(f"target {name}", "ok", f"{target} is measured on: {names}")


def _machine(kind: tuple[Any, ...]) -> str:
    cpu, cores, architecture, gpus = kind
    return ", ".join([f"{cpu}, {cores} cores, {architecture}", *gpus])


def _storage(
    cluster: ProbedCluster, nodes: Sequence[ProbedNode], trials: Sequence[ProbedNode], job: Job
) -> Iterator[Finding]:
    """Check the output folder on every node, and the data where trials run."""
    remedy = "mount one folder on all nodes under this path, or name another one: --set output=/shared/runs"
    if cluster.output is not None:
        yield Finding("output folder", "error", f"{job.output} on the head: {cluster.output}", remedy)
    else:
        wrong = [f"{node.name}: {node.output}" for node in nodes if node.output is not None]
        for line in wrong:
            yield Finding("output folder", "error", f"{job.output} on {line}", remedy)
        if not wrong and nodes:
            yield Finding("output folder", "ok", f"{job.output} is one folder on all nodes, and can be written")
    for node in trials:
        for folder, there in node.folders.items():
            if not there:
                mend = "copy or mount it there: trials read their data on their own node"
                yield Finding("data", "error", f"{folder} is not on {node.name}", mend)
