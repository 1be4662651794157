"""Facts of every node of a Ray cluster, asked by a short job."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.distributed import node_probe
from paretune.distributed.node_tasks import ClusterNode
from paretune.distributed.ray_dashboard import connected
from paretune.distributed.ray_jobs import log_at_end


@dataclass(frozen=True)
class ProbedNode:
    """What a living node of the cluster said of itself."""

    node: str
    labels: Mapping[str, str]
    resources: Mapping[str, float]
    address: str = ""
    failure: str | None = None
    """Why it said nothing; the fields below are then empty."""
    host: str = ""
    boot: str = ""
    """Name of the present run of its kernel: nodes of one host have the same."""
    python: str = ""
    packages: Mapping[str, str | None] = field(default_factory=dict)
    cpu: str = ""
    cores: int = 0
    architecture: str = ""
    gpus: Sequence[str] = ()
    locks: Sequence[Any] = ()
    """Folder of its device locks, with its device and inode."""
    output: str | None = None
    """Why the output folder cannot be used there."""
    folders: Mapping[str, bool] = field(default_factory=dict)
    """Folder → whether it is there."""
    skew: float = 0.0
    """Seconds by which its clock is ahead of the head's."""
    skew_error: float = 0.0

    @property
    def name(self) -> str:
        """Return its host's name and the first figures of Ray's name for it."""
        return f"{self.host or self.address} ({self.node[:6]})"

    @property
    def machine(self) -> tuple[Any, ...]:
        """Return what two nodes must share for their latencies to be compared."""
        return self.cpu, self.cores, self.architecture, tuple(self.gpus)

    @property
    def offer(self) -> ClusterNode:
        """Return its labels and resources."""
        return ClusterNode(self.name, self.resources, self.labels)


@dataclass(frozen=True)
class ProbedCluster:
    """What all nodes said, and what was found on the head."""

    nodes: tuple[ProbedNode, ...]
    output: str | None = None
    """Why the output folder cannot be used on the head."""
    reached: Mapping[str, str | None] = field(default_factory=dict)
    """Address of a server → why the head does not reach it; None if it does."""


def probe_cluster(
    address: str,
    packages: Sequence[str],
    *,
    output: str | None = None,
    folders: Sequence[str] = (),
    servers: Sequence[str] = (),
    seconds: float = 60.0,
) -> ProbedCluster:
    """Return what the nodes of a cluster are. The job that asks them is removed when it has answered.

    Args:
        address: of the head's dashboard, ``http://HEAD:8265``.
        packages: whose versions are asked.
        output: output folder that all nodes should share; None asks none.
        folders: that should be there.
        servers: addresses that the head should reach.
        seconds: in which a node is to answer.

    Raises:
        UserError: no cluster answers, or the job gives no answer.
    """
    asked: dict[str, Any] = {"packages": list(packages), "output": output, "folders": list(folders)}
    asked |= {"addresses": list(servers), "seconds": seconds}
    script = Path(node_probe.__file__)
    with connected(address) as client, tempfile.TemporaryDirectory(prefix="paretune-probe-") as folder:
        shutil.copy(script, folder)
        job = client.submit_job(
            entrypoint=shlex.join(["python", script.name, json.dumps(asked)]), runtime_env={"working_dir": folder}
        )
        log = log_at_end(client, job, limit=seconds + 120)
        told = probed(log)
        if told is None:
            last = " | ".join((log.strip() or client.get_job_info(job).message or "").splitlines()[-3:])
            raise UserError(f"{address}: its nodes could not be asked; the job {job} said: {last}")
        client.delete_job(job)
        return told


def probed(log: str) -> ProbedCluster | None:
    """Return what a job's log tells of the nodes; None if it has no such line."""
    line = next((line for line in reversed(log.splitlines()) if line.startswith(node_probe.MARK)), None)
    if line is None:
        return None
    told = json.loads(line.removeprefix(node_probe.MARK))
    return ProbedCluster(tuple(ProbedNode(**node) for node in told["nodes"]), told["output"], told["reached"])
