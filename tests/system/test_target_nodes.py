"""Measuring on the node that a label or a custom resource names, in a Ray of two nodes of our own."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.errors import NodeLostError, UnfitRuntimeError, UserError
from paretune.distributed.node_tasks import NodeRequest, call_on_node, cluster_nodes
from paretune.distributed.ray_session import QUIET, python_path
from paretune.storage.target_records import on_target
from paretune.storage.trial_record import read_records

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

BOARD = NodeRequest(labels={"board": "jetson"})
PROBE = NodeRequest(resources={"probe": 1})


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head and a node with a label and a custom resource, neither with a CPU to spare."""
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker cannot import it
    before = dict(os.environ)
    os.environ |= {**QUIET, "PYTHONPATH": python_path()}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    folder = Path(tempfile.mkdtemp(prefix="pt-"))  # short: socket paths are limited
    (folder / "ray").mkdir()
    os.environ["RAY_TMPDIR"] = str(folder)  # here the cluster's address is written, not beside the user's own Ray
    shared = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "temp_dir": str(folder), **shared})
    board = cluster.add_node(num_cpus=1, labels={"board": "jetson"}, resources={"probe": 1}, **shared)
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        cluster.wait_for_nodes()
        yield cluster, board
    finally:
        ray.shutdown()
        cluster.shutdown()
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(folder, ignore_errors=True)


def waited_for(file: Path, seconds: float = 60) -> None:
    """Return once a file is there."""
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, file
        time.sleep(0.02)


def node_of() -> str:
    """Return the id of the node that this runs on."""
    import ray

    return str(ray.get_runtime_context().get_node_id())


def noted(place: str, number: int, seconds: float) -> tuple[float, float]:
    """Hold on for some seconds and note the number; return start and end."""
    start = time.time()
    with Path(place).open("a") as file:
        file.write(f"{number}\n")
    time.sleep(seconds)
    return start, time.time()


def fail(kind: type[Exception]) -> None:
    raise kind("because of this")


@pytest.mark.parametrize(
    "request_", [BOARD, PROBE, NodeRequest({"board": "!pi", "ray.io/node-id": "!x"}, {"probe": 1})]
)
def test_a_function_runs_on_the_node_that_is_named(nodes: Any, request_: NodeRequest) -> None:
    assert call_on_node(node_of, request_, seconds=60) == nodes[1].node_id


def test_it_does_not_wait_for_trials_that_hold_every_cpu_and_runs_outside_of_their_resources(nodes: Any) -> None:
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    groups = [placement_group([{"CPU": 1}]) for _ in range(2)]
    ray.get([group.ready() for group in groups], timeout=60)
    place = PlacementGroupSchedulingStrategy(groups[0], placement_group_capture_child_tasks=True)
    trial = ray.remote(num_cpus=1, scheduling_strategy=place)(lambda: call_on_node(node_of, BOARD, seconds=60))
    try:
        assert ray.get(trial.remote(), timeout=90) == nodes[1].node_id
    finally:
        for group in groups:
            remove_placement_group(group)


def test_calls_for_one_resource_are_alone_and_begin_in_their_order(nodes: Any, tmp_path: Path) -> None:
    import ray

    place = tmp_path / "order"

    def ask(number: int) -> tuple[float, float]:
        (tmp_path / f"asks {number}").touch()
        times: tuple[float, float] = call_on_node(partial(noted, str(place), number, 0.5), PROBE)
        return times

    calls = []
    for number in range(4):
        calls.append(ray.remote(num_cpus=0)(ask).remote(number))
        waited_for(tmp_path / f"asks {number}")  # a worker process starts in its own time
        time.sleep(0.3)
    spans = ray.get(calls, timeout=120)
    assert [int(line) for line in place.read_text().split()] == [0, 1, 2, 3]
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("kind", [UserError, UnfitRuntimeError, RuntimeError])
def test_an_error_of_the_function_is_raised_here_as_it_was(nodes: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"^because of this$") as told:
        call_on_node(partial(fail, kind), BOARD, seconds=60)
    assert type(told.value) is kind


def test_what_no_node_offers_fails_at_once_with_what_there_is(nodes: Any) -> None:
    start = time.monotonic()
    with pytest.raises(NodeLostError, match=r"no node of the cluster has label board=pi; .*board=jetson, probe: 1"):
        call_on_node(node_of, NodeRequest({"board": "pi"}))
    assert time.monotonic() - start < 10
    assert sorted(dict(node.labels).get("board", "") for node in cluster_nodes()) == ["", "jetson"]


def test_a_call_that_takes_too_long_is_given_up(nodes: Any, tmp_path: Path) -> None:
    with pytest.raises(NodeLostError, match="gave no result within 3 s"):
        call_on_node(partial(noted, str(tmp_path / "hangs"), 0, 600.0), BOARD, seconds=3)
    assert call_on_node(node_of, PROBE, seconds=60) == nodes[1].node_id


JOB = """\
dataset: {shapes: {train: 96, val: 24, size: 96x64, difficulty: 0}}
detector: {yolo: {variant: nano, depthwise: false, width: 0.125}}
input_size: 96x64
training: {epochs: 2, batch_size: 8, lr: 1e-2}
space: space.yaml
targets: {jetson: {labels: {board: jetson}}, xeon: {labels: {board: xeon}}}
resources: {labels: {pool: train}}
search: {allow_unlearned: true, trials: 3, sampler: random}
measuring:
  {repetitions: 2, max_extra_repetitions: 0, seconds: 0.2, contention_wait_seconds: 0, rounds: 2, energy_seconds: 0}
"""
SPACE = """\
input_size: 96x64
steps:
  - prune: {ratio: 0.5, round_to: 4}
  - finetune: {epochs: 1}
runtime: onnxruntime
"""


@pytest.mark.slow
def test_a_sweep_trains_on_the_nodes_of_one_label_and_measures_on_those_of_two_others(
    nodes: Any, tmp_path: Path, place_in: Any
) -> None:
    cluster, jetson = nodes
    shared = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    xeon, train = (cluster.add_node(labels=labels, **shared) for labels in ({"board": "xeon"}, {"pool": "train"}))
    cluster.wait_for_nodes()
    place = place_in(tmp_path / "place", JOB, SPACE)
    try:
        done = place.run("sweep", "tiny.yaml", "--address", cluster.address, timeout=280)
        assert done.returncode == 0, done.stdout + done.stderr
        records = read_records(place.runs / "tiny")
        assert [record.state for record in records] == ["complete"] * 3
        assert {_node(record.facts["built_on"]) for record in records} == {train.node_id[:6]}
        spans = []
        for name, there in {"jetson": jetson, "xeon": xeon}.items():
            seen = [on_target(record, name) for record in records]
            assert {_node(record.facts["node"]) for record in seen} == {there.node_id[:6]}
            front = json.loads(place.run("front", "tiny", "--target", name, "--json").stdout)
            assert front["decided_by"] == "comparison"
            spans += [_span(place.runs / "tiny", record.number, name) for record in records]
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))  # alone: these nodes share one CPU
    finally:
        for node in (xeon, train):
            cluster.remove_node(node)


def _node(name: str) -> str:
    """The first figures of a node's name for Ray."""
    return name.partition("(")[2].rstrip(")")


def _span(sweep: Path, number: int, target: str) -> tuple[int, int]:
    """When a trial was measured on a target, by its raw samples."""
    name = "samples.npz" if target == "jetson" else f"samples-{target}.npz"
    file = sweep / "trials" / f"{number:04d}" / name
    with np.load(file) as kept:
        return int(kept["start_ns"].min()), int((kept["start_ns"] + kept["latency_ns"]).max())


def test_a_node_that_dies_meanwhile_is_no_fault_of_the_function(nodes: Any, tmp_path: Path) -> None:
    import threading

    cluster, board = nodes
    place = tmp_path / "runs"

    def lose() -> None:
        while not place.exists():
            time.sleep(0.1)
        cluster.remove_node(board, allow_graceful=False)

    killer = threading.Thread(target=lose)
    killer.start()
    with pytest.raises(NodeLostError, match="the node with label board=jetson, or the worker on it, died: "):
        call_on_node(partial(noted, str(place), 0, 600.0), BOARD, seconds=120)
    killer.join()
    end = time.monotonic() + 60
    while len(cluster_nodes()) > 1 and time.monotonic() < end:
        time.sleep(0.5)
    with pytest.raises(NodeLostError, match="no node of the cluster has label board=jetson"):
        call_on_node(node_of, BOARD)
