"""The job that asks every node of a cluster what it is, without anything but Python and Ray.

``python node_probe.py '{"packages": […], "output": …, "folders": […], "addresses": […], "seconds": …}'`` prints one
line for `probed`. It is run as a file, so that it tells of a node that lacks Paretune's packages.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MARK = "paretune-nodes "
"""Beginning of the line."""
SYNCHRONISING = 3
"""Times that a node's clock is read; the quickest answer counts."""


def look(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what the node that calls it is: host, versions, hardware, folders, locks."""
    own = Path(os.environ.get("PARETUNE_LOCKS") or f"/tmp/paretune-locks-{os.getuid()}")  # noqa: S108 - as `lock_folder`
    place = next(folder for folder in (own, *own.parents) if folder.is_dir()).stat()
    return {
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in asked["packages"]},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "architecture": platform.machine(),
        "gpus": _gpus(),
        "locks": [str(own), place.st_dev, place.st_ino],
        "output": _output(asked["output"], asked["mark"]),
        "folders": {folder: Path(folder).exists() for folder in asked["folders"]},
    }


def _text(file: str) -> str:
    with suppress(OSError):
        return Path(file).read_text().strip()
    return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Hardware", "cpu model"}:
            return value.strip()
    return platform.machine()


def _gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return done.stdout.split("\n")[:-1]
    return []


def _output(folder: str | None, mark: str) -> str | None:
    """Return why the output folder cannot be used on this node; None if it can."""
    if folder is None:
        return None
    place = Path(folder)
    if not (place / mark).is_file():
        return "is not the folder that the head sees" if place.is_dir() else "is not there"
    try:
        own = place / f"{mark}-{uuid.uuid4().hex}"
        own.touch()
        own.unlink()
    except OSError as error:
        return f"cannot be written ({error.strerror})"
    return None


def nodes(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each living node is; for one that does not answer in time, why."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    alive = [node for node in ray.nodes() if node["Alive"]]
    remote = {}
    for node in alive:
        options = {"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}
        remote[node["NodeID"]] = ray.remote(max_retries=0, **options)
    calls = {name: wrap(look).remote(asked) for name, wrap in remote.items()}
    ready = set(ray.wait(list(calls.values()), num_returns=len(calls), timeout=asked["seconds"])[0])
    found = []
    for node in alive:
        name = node["NodeID"]
        fact = {"node": name, "labels": node.get("Labels") or {}, "resources": node["Resources"], "failure": None}
        fact["address"] = node.get("NodeManagerAddress")
        if calls[name] in ready:
            try:
                fact |= ray.get(calls[name])
                fact["skew"], fact["skew_error"] = _skew(ray, remote[name])
            except ray.exceptions.RayError as error:
                fact["failure"] = str(error).strip().splitlines()[-1]
        else:
            fact["failure"] = f"gave no answer within {asked['seconds']:g} s"
        found.append(fact)
    return found


def _now() -> float:
    return time.time()


def _skew(ray: Any, wrap: Any) -> tuple[float, float]:
    """Return by how many seconds a node's clock is ahead of this one's, and the largest error of that."""
    now, best = wrap(_now), (0.0, float("inf"))
    for _ in range(SYNCHRONISING):
        begun = time.time()
        there = ray.get(now.remote(), timeout=60)
        ended = time.time()
        if (ended - begun) / 2 < best[1]:
            best = there - (begun + ended) / 2, (ended - begun) / 2
    return best


def reached(addresses: list[str]) -> dict[str, str | None]:
    """Return for each address of a server why it cannot be reached from here; None if it can."""
    found: dict[str, str | None] = {}
    for address in addresses:
        parts = urlsplit(address)
        port = parts.port or {"http": 80, "https": 443, "postgresql": 5432}.get(parts.scheme.partition("+")[0], 0)
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=10):
                found[address] = None
        except OSError as error:
            found[address] = error.strerror or str(error)
    return found


def main(text: str) -> int:
    """Print the line."""
    asked = json.loads(text)
    output, asked["mark"] = asked["output"], f".paretune-check-{uuid.uuid4().hex}"
    made, problem = False, None
    if output is not None:
        try:
            made = not Path(output).exists()
            Path(output).mkdir(parents=True, exist_ok=True)
            (Path(output) / asked["mark"]).touch()
        except OSError as error:
            problem = f"cannot be made or written ({error.strerror})"
            asked["output"] = None
    try:
        told = {"nodes": nodes(asked), "reached": reached(asked["addresses"]), "output": problem}
    finally:
        if output is not None:
            with suppress(OSError):
                (Path(output) / asked["mark"]).unlink()
            if made:
                with suppress(OSError):
                    Path(output).rmdir()
    print(MARK + json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
