"""What a cluster has against what a job needs: nodes that were made up, one thing wrong at a time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from paretune.config.job import Job
from paretune.distributed import node_probe
from paretune.distributed.cluster_probe import ProbedCluster, ProbedNode, probed
from paretune.workflows.cluster_check import cluster_findings, folders_in, required_packages
from paretune.workflows.doctor_hardware import Finding

REQUIRED = {"ray": ">=2.60", "numpy": ">=2"}
JOB = {"dataset": {"yolo": {"root": "/data/cells"}}, "detector": "yolo", "space": "none.yaml", "output": "/shared/runs"}
BOARD = {"targets": {"board": {"labels": {"board": "jetson"}}}}


def node(name: str, **more: Any) -> ProbedNode:
    made = ProbedNode(
        node=name * 10,
        labels={},
        resources={"CPU": 8.0},
        host=name,
        boot=name,
        python="3.11.7",
        packages={"ray": "2.60.0", "numpy": "2.4.0"},
        cpu="EPYC",
        cores=8,
        architecture="x86_64",
        locks=["/run/locks", 1, 7],
        folders={"/data/cells": True},
    )
    return replace(made, **more)


def wrong(*nodes: ProbedNode, job: dict[str, Any] | None = None, **more: Any) -> list[Finding]:
    """What is not right for a job."""
    whole = Job.model_validate({**JOB, **(job or {})})
    found = cluster_findings(ProbedCluster(nodes, **more), whole, REQUIRED)
    bad = [one for one in found if one.state != "ok"]
    assert all(one.remedy for one in bad)
    return bad


def test_two_like_nodes_are_right_and_where_each_stage_runs_is_told() -> None:
    assert wrong(node("a"), node("b")) == []
    nodes = (node("a"), node("b", labels={"board": "jetson"}, cpu="Cortex", resources={"CPU": 0.0}))
    found = cluster_findings(ProbedCluster(nodes), Job.model_validate(JOB | BOARD), REQUIRED)
    told = {one.check: one.found for one in found}
    assert {one.state for one in found} == {"ok"}
    assert "a (aaaaaa)" in told["trials"]
    assert "b (" not in told["trials"]
    assert told["target board"].endswith("b (bbbbbb)")


@pytest.mark.parametrize(
    ("nodes", "check", "part"),
    [
        ([node("a", packages={"ray": "2.60.0", "numpy": None})], "packages", "numpy>=2 (not installed)"),
        ([node("a", packages={"ray": "2.9.0", "numpy": "2.4.0"})], "packages", "ray>=2.60 (2.9.0)"),
        ([node("a"), node("b", packages={"ray": "2.61.0", "numpy": "2.4.0"})], "packages", "ray: 2.60.0 on a"),
        ([node("a"), node("b", python="3.12.1")], "python", "3.12.1 on b"),
        ([node("a"), node("b", skew=-9.0, skew_error=0.1)], "clock", "9.0 s behind the head"),
        ([node("a"), node("b", boot="a", locks=["/run/locks", 1, 8])], "device lock", "b (bbbbbb): /run/locks"),
        ([node("a"), node("b", output="is not there")], "output folder", "/shared/runs on b (bbbbbb): is not there"),
        ([node("a", folders={"/data/cells": False})], "data", "/data/cells is not on a"),
        ([node("a"), node("b", cpu="Xeon")], "target local", "EPYC, 8 cores, x86_64"),
        ([node("a"), node("b", gpus=["T4"])], "target local", "x86_64, T4"),
        ([node("a", resources={"CPU": 0.0})], "resources", "asks for"),
        ([node("a"), node("b", failure="gave no answer within 60 s")], "node", "gave no answer within 60 s"),
        ([], "nodes", "none is alive"),
    ],
)
def test_one_thing_wrong_is_told_with_where_it_is(nodes: list[ProbedNode], check: str, part: str) -> None:
    found = wrong(*nodes)
    assert any(one.check == check and part in one.found for one in found), found
    if nodes:
        assert len(found) == 1


def test_a_target_that_no_node_measures_for_is_told_with_what_the_nodes_offer() -> None:
    (found,) = wrong(node("a", labels={"board": "pi"}), job=BOARD)
    assert (found.check, found.state) == ("target board", "error")
    assert "board=pi" in found.found


def test_a_node_that_is_behind_by_less_than_is_known_is_not_called_behind() -> None:
    assert wrong(node("a"), node("b", skew=9.0, skew_error=8.0)) == []


def test_a_server_that_the_head_does_not_reach_is_a_warning() -> None:
    (found,) = wrong(node("a"), reached={"http://mlflow": "Connection refused"})
    assert (found.check, found.state) == ("mlflow", "warning")


def test_an_output_folder_that_the_head_cannot_make_is_told_once() -> None:
    (found,) = wrong(node("a"), node("b"), output="cannot be made or written (Permission denied)")
    assert found.found == "/shared/runs on the head: cannot be made or written (Permission denied)"


def test_what_a_machine_without_packages_says_is_read(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(node_probe, "nodes", lambda asked: [{"node": "n", "labels": {}, "resources": {}} | told(asked)])
    output = tmp_path / "runs"
    asked = {"packages": ["numpy", "no-such"], "output": str(output), "folders": [str(tmp_path), "/none"]}
    assert node_probe.main(json.dumps({**asked, "addresses": ["http://127.0.0.1:9"], "seconds": 1})) == 0
    cluster = probed("other lines\n" + capsys.readouterr().out)
    assert cluster is not None
    (only,) = cluster.nodes
    assert only.packages["no-such"] is None
    assert only.packages["numpy"]
    assert only.folders == {str(tmp_path): True, "/none": False}
    assert only.output is None
    assert cluster.output is None
    assert cluster.reached["http://127.0.0.1:9"] is not None
    assert not output.exists()  # nothing is left
    assert probed("no line\n") is None


def told(asked: dict[str, Any]) -> dict[str, Any]:
    return node_probe.look(asked)


def test_folders_and_requirements_are_those_of_the_job_and_of_the_package() -> None:
    assert sorted(folders_in({"a": {"root": "/x"}, "b": ["/y", "z", 3], "c": None})) == ["/x", "/y"]
    required = required_packages()
    assert {"ray", "torch", "optuna"} <= set(required)
    assert "nncf" not in required  # of an extra
