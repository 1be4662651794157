"""The front measured once more at the end of a sweep: when that fails, trials lose nothing, and it is tried again."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from paretune.config.job import Job
from paretune.core.errors import UserError
from paretune.distributed import node_tasks
from paretune.distributed import ray_session as session
from paretune.reports.front_page import packed
from paretune.results.front_data import SweepView, data_of
from paretune.results.front_summary import comparison_of, front_of, front_text
from paretune.results.sweep_folder import Sweep
from paretune.workflows import sweep as module
from paretune.workflows.sweep import SweepResult
from paretune.workflows.sweep_reporter import SweepReporter
from tests_support_records import comparison, fake_records, write_sweep

JOB = {
    "dataset": {"shapes": {"train": 8, "val": 4, "size": "64x48"}},
    "detector": {"yolo": {"variant": "nano"}},
    "input_size": 160,
    "space": "space.yaml",
    "search": {"trials": 14},
}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep whose trials are all done; nothing is trained, and Ray is not started."""
    made = Sweep(tmp_path, "demo")
    made.folder.mkdir()
    facts = {"paretune": "0", "name": "demo", "created": 0.0, "job": Job.model_validate(JOB).tree()}
    (made.folder / "sweep.json").write_text(json.dumps(facts))
    (made.folder / "space.yaml").write_text("runtime: {choices: [onnxruntime, eager]}\n")
    write_sweep(made.folder, fake_records())
    for name in ("take_baseline", "train_baseline", "refuse_impossible", "note_machines"):
        monkeypatch.setattr(module, name, lambda *_, **__: None)
    monkeypatch.setattr(session, "session", lambda *_, **__: nullcontext())
    monkeypatch.setattr(session, "cores", lambda: 1)
    return made


class Quiet(SweepReporter):
    """A reporter without a log."""

    def say(self, text: str) -> None:
        pass

    def prepare(self) -> None:
        pass

    def started(self) -> None:
        pass

    def finished(self) -> None:
        print(front_text(self.sweep))


def run(sweep: Sweep, measure: Any, **more: Any) -> SweepResult:
    return module.run_sweep(sweep, reporter=Quiet(sweep), measure=measure, **more)


def test_a_comparison_that_fails_is_told_and_resume_tries_again(sweep: Sweep, capsys: Any) -> None:
    asked = []

    def fails(*given: Any) -> dict[str, Any]:
        asked.append(given)
        raise RuntimeError("the measuring process\nwas killed by SIGKILL: <out of memory>")

    outcome = run(sweep, fails)
    assert outcome.finished
    assert sweep.finished
    assert len(outcome.records) == 14
    why = "the measuring process was killed by SIGKILL: <out of memory>"
    assert comparison_of(sweep) == {"reason": why, "trials": {}}
    said = capsys.readouterr().out
    assert f"speed-ups: not known, {why}; to try again: paretune resume demo" in said
    front = front_of(sweep, list(outcome.records))
    (target,) = packed(data_of([SweepView(sweep, front, outcome.records)]))["targets"]
    assert target["gains_unknown"] == "the measuring process was killed by SIGKILL: <out of memory>"

    measured = {**comparison(), "notes": ["few_images: measured on 24 images, 100 are usual"]}

    def measure(*given: Any) -> dict[str, Any]:
        return asked.append(given) or measured

    assert run(sweep, measure).finished
    assert comparison_of(sweep) == measured
    said = capsys.readouterr().out
    assert "few_images: measured on 24 images" in said
    assert "not known" not in said
    assert run(sweep, measure).finished
    assert len(asked) == 2  # what is there is not measured again


def test_on_a_cluster_the_front_is_measured_where_trials_run(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray starts the driver on the head, which may be another machine than the target."""
    on_nodes, where = [], []

    monkeypatch.setattr(node_tasks, "cluster_nodes", list)

    def on_a_node(work: Any, resources: Any, runs: Path, address: str, labels: Any) -> Any:
        on_nodes.append((resources, runs, address, labels))
        where.append("node")
        return cloudpickle.loads(cloudpickle.dumps(work))()

    def measured(context: Any, finalists: Any) -> dict[str, Any]:
        assert where == ["node"]
        assert context.folder == sweep.folder.resolve()
        assert {0, 1} <= set(finalists.artefacts)
        return {**comparison(), "notes": ["told there"]}

    facts = sweep.folder / "sweep.json"
    job = {**JOB, "resources": {"cpu": 2, "gpu": 1, "custom": {"target": 1}, "labels": {"pool": "train"}}}
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "job": Job.model_validate(job).tree()}))
    monkeypatch.setattr(session, "on_a_node", on_a_node)
    assert run(sweep, measured, address="auto").finished
    assert on_nodes == [({"CPU": 2, "GPU": 1, "target": 1}, sweep.runs, "auto", {"pool": "train"})]
    assert comparison_of(sweep) == {**comparison(), "notes": ["told there"]}


def test_a_target_with_more_threads_than_there_are_cores_ends_no_sweep(sweep: Sweep) -> None:
    def fails(*_: Any) -> dict[str, Any]:
        raise UserError("4 threads, and this process may use 2")

    assert run(sweep, fails).finished
    assert comparison_of(sweep) == {"reason": "4 threads, and this process may use 2", "trials": {}}
