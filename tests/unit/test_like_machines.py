"""Unlike machines for one target are refused: before the first trial, when a sweep goes on, and in each measurement."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from paretune.config.job import Job
from paretune.core.errors import UserError
from paretune.distributed.node_tasks import ClusterNode
from paretune.results.sweep_folder import Sweep
from paretune.workflows.like_machines import MACHINES, AskNodes, difference, machine_of, note_machines
from tests_support_documented import printed
from tests_support_records import fake_records, write_sweep

JOB = {"dataset": {"shapes": {}}, "detector": "yolo", "space": "space.yaml", "input_size": 160}
XEON = {"cpu": "Xeon", "machine_cores": 8, "architecture": "x86_64", "device": "cpu"}
ARM = {**XEON, "cpu": "Cortex", "architecture": "aarch64"}
NODES = [
    ClusterNode("a", {"CPU": 8}, {"pool": "train"}, "1"),
    ClusterNode("b", {"CPU": 8}, {"pool": "train"}, "2"),
    ClusterNode("c", {"CPU": 0}, {"board": "pi"}, "3"),
]


def sweep_of(folder: Path, **more: Any) -> Sweep:
    made = Sweep(folder, "cells")
    made.folder.mkdir()
    facts = {"paretune": "0", "name": "cells", "created": 0.0, "job": Job.model_validate({**JOB, **more}).tree()}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    return made


def machines(**facts: dict[str, Any]) -> tuple[AskNodes, list[str]]:
    """What asks nodes that are such machines, and the nodes that were asked."""
    asked = list[str]()

    def ask(_work: Callable[[], Any], nodes: Sequence[ClusterNode]) -> dict[str, tuple[Any, str | None]]:
        asked.extend(node.name for node in nodes)
        return {n.name: (facts[n.name], None) if n.name in facts else (None, "it died") for n in nodes}

    return ask, asked


def test_like_nodes_are_noted_by_target(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, targets={"here": {}, "board": {"labels": {"board": "pi"}}})
    ask, asked = machines(a=XEON, b={**XEON, "load_average": 3.0}, c=ARM)
    note_machines(sweep, NODES, ask=ask)
    assert sweep.facts[MACHINES] == {"here": XEON, "board": ARM}
    assert asked == ["a", "b", "c"]  # a node without cores runs no trial


def test_unlike_nodes_are_refused_with_what_each_is(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    with pytest.raises(UserError) as refused:
        note_machines(sweep, NODES, ask=machines(a=XEON, b=ARM)[0])
    text = str(refused.value)
    assert "  a: architecture x86_64, cpu Xeon" in text
    assert "  b: architecture aarch64, cpu Cortex" in text
    assert "targets.local.labels" in text
    assert MACHINES not in Sweep(tmp_path, "cells").facts


def test_labels_of_trials_leave_out_the_other_nodes(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, resources={"labels": {"pool": "in(train, big)"}})
    far = ClusterNode("d", {"CPU": 64}, {"pool": "other"}, "4")
    ask, asked = machines(a=XEON, b=XEON, d=ARM)
    note_machines(sweep, [*NODES, far], ask=ask)
    assert asked == ["a", "b"]
    with pytest.raises(UserError, match=r"resources\.labels: no node of the cluster has label pool"):
        note_machines(sweep, [far], ask=ask)


def test_a_node_that_does_not_answer_is_left_out_unless_none_does(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    note_machines(sweep, NODES, ask=machines(a=XEON)[0])
    assert sweep.facts[MACHINES] == {"local": XEON}
    with pytest.raises(UserError, match="a: it died; b: it died"):
        note_machines(sweep, NODES, ask=machines()[0])


def test_a_resumed_sweep_is_refused_on_another_machine_unless_it_is_accepted(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    note_machines(sweep, NODES, ask=machines(a=XEON, b=XEON)[0])
    note_machines(sweep, NODES, ask=machines(a=ARM, b=ARM)[0])  # before its first trial
    write_sweep(sweep.folder, fake_records())
    again = Sweep(tmp_path, "cells")
    with pytest.raises(UserError, match="cpu: Cortex → Xeon") as refused:
        note_machines(again, NODES, ask=machines(a=XEON, b=XEON)[0])
    (hint,) = printed(str(refused.value))
    assert hint.endswith("--accept-changes")
    note_machines(again, NODES, accept=True, ask=machines(a=XEON, b=XEON)[0])
    assert again.facts[MACHINES] == {"local": XEON}


def test_only_facts_that_decide_a_latency_are_compared() -> None:
    assert machine_of({**XEON, "load_average": 1.0, "node": "a"}) == XEON
    assert difference(XEON, {**XEON, "node": "b"}) == ""
    assert difference(None, XEON) == ""
    assert difference(XEON, ARM) == "cpu: Xeon → Cortex, architecture: x86_64 → aarch64"
