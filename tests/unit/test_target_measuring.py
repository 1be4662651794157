"""A version is measured on each target that can run it; nothing is trained, and no latency is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paretune.config.job import Job
from paretune.config.recipe import Recipe
from paretune.core.errors import NodeLostError, UnfitRuntimeError, UserError
from paretune.core.types import Data
from paretune.distributed.node_tasks import ClusterNode, NodeRequest, node_missing_reason
from paretune.runtimes.onnxruntime import OnnxRuntime
from paretune.storage.target_records import TargetFigures, on_target
from paretune.storage.trial_events import EventLog, read_events
from paretune.storage.trial_record import Record, read_record, trial_folder
from paretune.workflows.machine_check import refuse_without_nodes, sweep_problems
from paretune.workflows.stages import Stages
from paretune.workflows.target_measuring import home_target, measure_on_targets, notes_of, targets_of, with_targets
from paretune.workflows.trial_context import TrialContext
from paretune.workflows.trial_stages import Instruments
from paretune.workflows.trial_worker import record_of
from tests_support_records import NoLatency, write_sweep
from tests_support_targets import JOB, duet, on_both

RECIPE = Recipe.model_validate({"input_size": 160, "runtime": "onnxruntime"})
NODE = {"one": {}, "far": {"device": "cpu", "labels": {"board": "jetson"}}}


class Measured(NoLatency):
    """In place of a duet: the latency is as long as the threads are few."""

    def __init__(self, threads: int) -> None:
        self.facts = {name: fact for name, fact in duet(1.0 / threads, 4.0).items() if name != "reference"}
        self.latency = SimpleNamespace(facts={"threads": threads})
        self.notes = (f"few_images: measured with {threads}",)

    def metrics(self) -> dict[str, float]:
        return {"latency_ms_p50": 4.0 / self.latency.facts["threads"], "memory_mib_peak": 90.0, "load_ms": 7.0}


class Meter:
    """Instruments that note what they measure, and fail for some targets."""

    def __init__(self, *broken: int, error: Exception | None = None) -> None:
        self.broken, self.error, self.asked, self.beside = broken, error, list[int](), list[Any]()

    def duet(self, _folder: Path, beside: Path | None, _images: Any, target: Any, _protocol: Any, **_: Any) -> Any:
        self.asked.append(target.threads)
        self.beside.append(beside)
        if target.threads in self.broken:
            raise self.error or RuntimeError("the measuring process died")
        return Measured(target.threads)

    def tools(self, **more: Any) -> Instruments:
        energy = SimpleNamespace(figures=dict, reasons={}, source="unavailable: not taken", notes=())
        return Instruments(duet=self.duet, energy=lambda *_, **__: energy, **more)


@pytest.fixture
def context(tmp_path: Path) -> TrialContext:
    return context_of(tmp_path)


def context_of(folder: Path, **more: Any) -> TrialContext:
    job = Job.model_validate({**JOB, **more})
    return TrialContext(job, job.dataset.open(folder / "cache"), folder / "sweep", folder / "baseline")


def artefact_in(context: TrialContext) -> Any:
    return SimpleNamespace(folder=context.trial_folder(4) / "artefact")


def measured(context: TrialContext, meter: Meter, number: int = 4, **more: Any) -> tuple[dict[str, Any], Stages]:
    stages, tools = Stages(), meter.tools(**more)
    found = measure_on_targets(context, number, RECIPE, artefact_in(context), stages, lambda _: None, tools)
    return found, stages


def test_a_version_is_measured_on_each_target_beside_the_baseline_there(context: TrialContext) -> None:
    write_sweep(context.folder, [on_both(0, 0.5, 9.0, 7.0), on_both(1, 0.5, 4.0, None)])
    meter = Meter()
    found, stages = measured(context, meter)
    assert list(found) == ["one", "two"]
    assert meter.asked == [1, 2]
    assert [beside.parent.name for beside in meter.beside] == ["0001", "0000"]  # 1 was not measured on two
    assert [figures.facts["duet"]["reference"] for figures in found.values()] == [1, 0]
    assert list(stages.seconds) == ["measure", "energy", "measure_two", "energy_two"]
    assert notes_of(found, "one") == ("few_images: measured with 1", "two: few_images: measured with 2")
    assert notes_of(found, "two")[-1] == "made for target two and evaluated there: one cannot run it"


def test_of_a_target_on_which_measuring_failed_the_reason_is_known(context: TrialContext) -> None:
    found, _ = measured(context, Meter(1))
    assert found["one"].metrics == {}
    assert found["one"].reasons["latency_ms"] == "RuntimeError: the measuring process died"
    assert found["two"].metrics["latency_ms_p50"] == 2.0


def test_a_version_that_no_target_measured_fails_as_its_first_one_did(context: TrialContext) -> None:
    with pytest.raises(RuntimeError, match="the measuring process died"):
        measured(context, Meter(1, 2))


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("gone")])
def test_the_eager_baseline_has_to_be_measured_on_all_and_a_full_disk_is_no_reason(
    context: TrialContext, error: Exception
) -> None:
    number = 4 if isinstance(error, OSError) else 0
    with pytest.raises(type(error)):
        measured(context, Meter(2, error=error), number)


def test_the_record_holds_the_scaled_latency_of_every_target(context: TrialContext) -> None:
    write_sweep(context.folder, [on_both(0, 0.5, 9.0, 7.0), on_both(1, 0.5, 4.0, 3.0)])
    found, _ = measured(context, Meter())
    own = found["one"]
    plain = {"metrics": {"map": 0.4, **own.metrics}, "reasons": {}, "notes": (), "artefact": "a", "started": 1.0}
    plain["facts"] = {**own.facts, "left_out": []}
    record = with_targets(context, Record.complete(4, RECIPE.tree(), {}, "sampled", **plain), found)
    assert record.metrics["latency_ms"] == pytest.approx(4.0)  # trial 1 takes 4 ms there in every duet
    two = on_target(record, "two")
    reference = sorted([3.0, 3.0, 4.0])[1]  # the median of its latency in three duets
    assert two.metrics["latency_ms"] == pytest.approx(reference / 2)
    assert record.targets["two"]["metrics"]["latency_ms"] == two.metrics["latency_ms"]
    assert (record.facts["threads"], two.facts["threads"]) == (1, 2)
    assert two.metrics["map"] == 0.4
    own.metrics["load_ms"] = 8.0  # type: ignore[index]
    again = with_targets(context, Record.complete(4, RECIPE.tree(), {}, "sampled", **plain), {"one": own, "two": own})
    assert again.targets["one"]["metrics"].keys() == record.metrics.keys() - {"map"}
    lacks = {"one": own, "two": TargetFigures.unknown("no")}
    lacking = with_targets(context, Record.complete(4, RECIPE.tree(), {}, "sampled", **plain), lacks)
    assert on_target(lacking, "two").metrics == {"map": 0.4}
    alone = context_of(context.folder.parent, targets={"one": {}})
    assert with_targets(alone, replace(record, targets={}), {"one": own}).targets == {}


def test_steps_are_for_the_first_target_that_can_run_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = context_of(tmp_path, targets={"gpu": {"device": "cuda"}, "cpu": {}, "more": {"threads": 2}})
    monkeypatch.setattr(
        OnnxRuntime, "unsupported_reason", lambda _, target: "no CUDA here" if target.device == "cuda" else None
    )
    assert home_target(context.job, RECIPE) == "cpu"
    assert targets_of(context.job, RECIPE) == ["cpu", "more"]
    found, stages = measured(context, Meter())
    assert found["gpu"].reasons["latency_ms"] == "no CUDA here"
    assert list(stages.seconds) == ["measure_cpu", "energy_cpu", "measure_more", "energy_more"]
    monkeypatch.setattr(OnnxRuntime, "unsupported_reason", lambda _, target: f"none on {target}")
    with pytest.raises(UnfitRuntimeError, match="target gpu: none on cuda; target cpu: none on cpu, 1 thread; target"):
        home_target(context.job, RECIPE)


def test_one_target_alone_is_refused_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(tmp_path, targets={"cpu": {}})
    monkeypatch.setattr(OnnxRuntime, "unsupported_reason", lambda *_: "not installed here")
    with pytest.raises(UnfitRuntimeError, match=r"^not installed here$"):
        home_target(context.job, RECIPE)


def test_another_node_is_asked_for_its_figures(tmp_path: Path) -> None:
    context, asked = context_of(tmp_path, targets=NODE), list[Any]()

    def elsewhere(given: TrialContext, number: int, target: str) -> TargetFigures:
        asked.append((given, number, target))
        return TargetFigures({"latency_ms_p50": 7.0}, facts={"threads": 1, "duet": duet(1.0, 7.0)})

    meter = Meter()
    found, stages = measured(context, meter, elsewhere=elsewhere)
    assert asked == [(context, 4, "far")]
    assert meter.asked == [1]
    assert found["far"].metrics == {"latency_ms_p50": 7.0}
    assert list(stages.seconds) == ["measure", "energy", "measure_far"]


def test_a_node_that_is_gone_is_no_fault_of_the_recipe(tmp_path: Path) -> None:
    context = context_of(tmp_path, targets=NODE)

    def elsewhere(*_: Any) -> TargetFigures:
        raise NodeLostError("the node died")

    with pytest.raises(NodeLostError, match="target far: the node died"):
        measured(context, Meter(), elsewhere=elsewhere)


def test_a_trial_whose_node_is_gone_is_run_again_and_then_fails_with_that_reason(tmp_path: Path) -> None:
    proposal = {"number": 4, "recipe": RECIPE.tree(), "origin": "sampled"}
    lines: list[str] = []
    for _ in range(2):
        EventLog(trial_folder(tmp_path, 4)).add("failed", "measure", reason="target far: the node died")
        assert record_of(tmp_path, proposal, retries=2, say=lines.append) is None
    assert lines[0] == "trial 4: target far: the node died; it is run again (1 of 2 times)"
    EventLog(trial_folder(tmp_path, 4)).add("failed", "measure", reason="target far: the node died")
    record = record_of(tmp_path, proposal, retries=2)
    assert record is not None
    assert record.failure == "target far: the node died, 3 times"
    assert read_record(tmp_path, 4) == record
    assert [event.kind for event in read_events(trial_folder(tmp_path, 4))].count("died") == 3


NODES = [
    ClusterNode("head", {"CPU": 2}, {"ray.io/node-id": "x"}),
    ClusterNode("board", {"CPU": 4, "probe": 1}, {"board": "jetson", "site": "lab"}),
]


@pytest.mark.parametrize(
    ("labels", "resources", "fits"),
    [
        ({"board": "jetson"}, {}, True),
        ({"board": "pi"}, {}, False),
        ({"board": "!pi"}, {}, True),
        ({"board": "!jetson", "site": "lab"}, {}, False),
        ({"board": "in(pi, jetson)"}, {}, True),
        ({"board": "!in(pi, jetson)", "site": "lab"}, {}, False),
        ({"board": "jetson", "site": "field"}, {}, False),
        ({}, {"probe": 1}, True),
        ({}, {"probe": 2}, False),
        ({"board": "jetson"}, {"probe": 1}, True),
    ],
)
def test_which_nodes_can_be_a_target(labels: dict[str, str], resources: dict[str, float], fits: bool) -> None:
    reason = node_missing_reason(NodeRequest(labels, resources), NODES)
    assert (reason is None) == fits
    if reason is not None:
        assert "the nodes have: head: no labels; board: board=jetson, site=lab, probe: 1" in reason


def test_a_target_that_no_node_can_be_is_refused_at_once_with_what_there_is() -> None:
    job = Job.model_validate({**JOB, "targets": {**NODE, "probe": {"resources": {"probe": 3}}, "here": {}}})
    with pytest.raises(UserError) as told:
        refuse_without_nodes(job, NODES)
    assert str(told.value).startswith("targets.probe: no node of the cluster has resource probe: 3; the nodes have:")
    with pytest.raises(UserError, match=r"targets.far: no node .* label board=jetson.*\n.*targets.probe: "):
        refuse_without_nodes(job, [])
    refuse_without_nodes(Job.model_validate({**JOB, "targets": NODE}), NODES)


def test_this_machine_is_asked_for_every_target_but_those_of_other_nodes() -> None:
    targets = {"one": {}, "wide": {"threads": 1000}, "far": {"threads": 1000, "labels": {"board": "jetson"}}}
    problems = sweep_problems(Job.model_validate({**JOB, "targets": targets}), lambda: 0)
    assert [problem.partition(":")[0] for problem in problems] == ["targets.wide.threads"]


def test_views_of_a_context_are_made_once() -> None:
    job = Job.model_validate(JOB)
    context = TrialContext(job, Data((), {}, ""), Path("sweep"), Path("baseline"))
    assert context.on("two") is context.on("two")
    assert (context.on("one").further, context.on("two").further) == (None, "two")
    assert context.on("two").of_target("samples") == "samples-two"
    assert context.on("one").of_target("samples") == "samples"
    alone = replace(context, job=job.for_target("two"))
    assert alone.on("two") is alone
