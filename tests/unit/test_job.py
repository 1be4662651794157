"""Jobs: what is right, and every mistake told at once with its line."""

from __future__ import annotations

import json
import math
import textwrap

import pytest

from paretune.cli.main import main
from paretune.config.job import Constraint, Job
from paretune.config.measuring import SHORTEST
from paretune.config.plan import overridden, read_plan
from paretune.config.recipe import Recipe
from paretune.core.errors import UserErrors
from paretune.core.metrics import METRICS
from paretune.core.types import InputSize
from paretune.core.yaml_document import Document
from paretune.data.synthetic.shapes import Shapes
from paretune.evaluation import accuracy
from paretune.evaluation.baseline_difference import CHANGES
from paretune.profiling.energy.measure import WINDOW
from paretune.workflows.baseline import first_recipes
from paretune.workflows.trial_context import protocol_of
from tests_support import ROOT
from tests_support import SMALL_JOB as JOB
from tests_support import SMALL_SPACE as SPACE


@pytest.fixture
def plan(tmp_path):
    def read(job=JOB, space=SPACE, here=True, **overrides):
        (tmp_path / "job.yaml").write_text(textwrap.dedent(job))
        (tmp_path / "space.yaml").write_text(textwrap.dedent(space))
        return read_plan(tmp_path / "job.yaml", {k.replace("__", "."): v for k, v in overrides.items()}, here=here)

    return read


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_job_of_ours_is_right_and_runs_once_its_folder_is_named(path):
    dataset = read_plan(path, unnamed=True).job.dataset
    if dataset.unnamed() is None:
        read_plan(path)
        return
    for here in (True, False):
        with pytest.raises(UserErrors) as raised:
            read_plan(path, here=here)
        (problem,) = raised.value.problems
        assert f"--set dataset.{dataset.name}.root=" in problem.message


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda p: p.name)
def test_every_space_of_ours_is_right(path, capsys):
    assert main(["check", str(path)]) == 0
    assert "right" in capsys.readouterr().out


def test_recipes_to_try_first_come_after_the_baselines_each_once(plan):
    advised = {"input_size": 128, "steps": [{"quantize": {}}], "runtime": "onnxruntime"}
    dense = {"input_size": 160, "runtime": "onnxruntime"}
    made = plan(search__first=[advised, dense, advised])
    job, found = made.job, first_recipes(made.job, made.space)
    assert [origin for _, origin in found] == ["baseline", "baseline", "enqueued"]
    assert Recipe.model_validate(found[2][0]).size == InputSize(128, 128)
    assert [next(iter(step)) for step in found[2][0]["steps"]] == ["quantize"]
    again = Job.model_validate(job.tree())
    assert first_recipes(again, made.space) == found


def test_a_loss_may_be_bounded_for_sure(plan):
    sure = plan(constraints={"map_delta_low": {"min": -0.01}}).job.constraints["map_delta_low"]
    assert sure.violation(-0.02, 0.0) == pytest.approx(0.01)
    assert sure.violation(-0.01, 0.0) <= 0


def test_recipes_to_try_first_are_read_from_a_folder(plan, tmp_path, capsys):
    plan()
    (tmp_path / "advice").mkdir()
    words = ["sweep", str(tmp_path / "job.yaml"), "--first", str(tmp_path / "advice"), "--set", f"output={tmp_path}"]
    assert main(words) == 2
    assert "holds no recipe" in capsys.readouterr().err
    (tmp_path / "advice" / "a.yaml").write_text("input_size: 63\nruntime: eager\n")
    assert main(words) == 2
    assert "search.first.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runtime", "scheme", "device"),
    [
        ("onnxruntime", "fp16", "cuda"),
        ("onnxruntime", "weight_only", "cuda"),
        ({"onnxruntime": {"provider": "tensorrt"}}, "int8", "cuda"),
        ("tensorrt", "int8", "cuda"),
        ("onnxruntime", "int8_dynamic", "cpu"),
        ("eager", "int8", "cpu"),
    ],
)
def test_what_a_device_computes_in_is_taken(plan, runtime, scheme, device):
    space = f"{{input_size: 160, steps: [{{quantize: {{scheme: {scheme}}}}}], runtime: {json.dumps(runtime)}}}"
    plan(space=space, targets={"one": {"device": device}})


def test_a_job_survives_its_tree(plan):
    job = plan().job
    assert Job.model_validate(job.tree()) == job


def test_overrides_reach_plugins_written_as_a_word(plan):
    read = plan(JOB.replace("{shapes: {}}", "shapes"), dataset__shapes__seed=7, search__trials=9)
    assert read.job.dataset.seed == 7
    assert read.job.search.trials == 9


def test_many_mistakes_are_told_at_once(plan):
    bad = "dataset: {shapes: {sed: 1}}\ndetector: yola\ninput_size: 160\nspace: space.yaml\nserch: {}\n"
    with pytest.raises(UserErrors) as caught:
        plan(bad)
    assert [problem.line for problem in caught.value.problems] == [1, 2, 5]


@pytest.mark.parametrize(
    ("constraint", "value", "base", "violation"),
    [
        (Constraint(min=0.5), 0.4, None, 0.1),
        (Constraint(max=10), 7, None, -3),
        (Constraint(max_drop=0.02), 0.69, 0.70, -0.01),
        (Constraint(max_drop=0.02), 0.60, 0.70, 0.08),
        (Constraint(max_drop=0.02), 0.60, None, math.inf),
        (Constraint(min=0.5), math.nan, None, math.inf),
    ],
)
def test_violations(constraint, value, base, violation):
    assert constraint.violation(value, base) == pytest.approx(violation)


def test_a_drop_is_of_what_is_better_when_larger():
    changes = {"map_delta_low", "map50_delta_low"}
    larger = {name for name, row in METRICS.items() if row.direction == "maximize"}
    assert larger >= {*accuracy.METRICS, *changes} - {"confidence"}
    assert changes < set(CHANGES)


def test_recipes_get_the_export_they_need():
    recipe = Recipe.model_validate({"steps": ["quantize"], "runtime": "onnxruntime"})
    assert [step.name for step in recipe.chain] == ["export", "quantize"]
    plain = Recipe.model_validate({"runtime": "onnxruntime"})
    assert [step.name for step in plain.chain] == ["export"]
    assert Recipe.model_validate({"runtime": "eager"}).chain == ()
    assert Recipe.model_validate(recipe.tree()) == recipe


def test_a_step_that_stands_twice_keeps_its_params_apart():
    recipe = Recipe.model_validate(
        {"steps": [{"finetune": {"epochs": 2}}, {"finetune": {"epochs": 3}}], "runtime": "eager"}
    )
    params = recipe.params()
    assert (params["finetune.epochs"], params["finetune_2.epochs"]) == (2, 3)


def test_a_trial_is_measured_as_thoroughly_as_its_job_says(plan):
    asked = plan().job.measuring
    assert asked.energy_seconds == SHORTEST == WINDOW
    protocol = protocol_of(asked)
    assert (asked.repetitions, asked.seconds) == (protocol.repetitions, protocol.seconds)
    assert (asked.max_extra_repetitions, asked.contention_wait_seconds) == (protocol.spare, protocol.patience)
    assert plan(measuring__contention_wait_seconds=0).job.measuring.contention_wait_seconds == 0


FOLDERED = JOB.replace("{shapes: {}}", "{voc: {root: /not/here}}")


@pytest.mark.parametrize("root", ["/not/here", "~/not/here", "$NOT/here"])
def test_a_job_for_a_cluster_may_name_folders_that_only_its_nodes_have(plan, root):
    job = FOLDERED.replace("/not/here", root) + "baseline: /not/there\n"
    assert plan(job, here=False).job.dataset.root == root
    with pytest.raises(UserErrors, match="no such folder"):
        plan(job)


def test_a_job_for_a_cluster_names_no_relative_folders(plan, tmp_path, monkeypatch):
    """They would be looked for in the folder that Ray unpacks the job in, even where this machine has them."""
    (tmp_path / "voc").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserErrors) as told:
        plan(FOLDERED.replace("/not/here", "voc") + "baseline: ~/trained\n", here=False)
    dataset, baseline = told.value.problems
    assert dataset.message.startswith("dataset: 'voc' is relative: give an absolute one")
    assert baseline.message.startswith("baseline: '~/trained' is relative")
    assert (dataset.line, baseline.line) == (1, 6)


def test_a_dataset_that_names_no_folder_is_checked_before_it_is_submitted(plan, monkeypatch):
    monkeypatch.setattr(Shapes, "problems", lambda _: ["cannot be painted"])
    with pytest.raises(UserErrors, match="dataset: cannot be painted"):
        plan(here=False)


def test_submit_reaches_the_cluster_though_this_machine_lacks_the_dataset(tmp_path, monkeypatch):
    (tmp_path / "job.yaml").write_text(FOLDERED)
    (tmp_path / "space.yaml").write_text(SPACE)
    asked = []
    monkeypatch.setattr("paretune.distributed.ray_jobs.submit", lambda *given, **_: (asked.append(given) or 0, "one"))
    assert main(["submit", str(tmp_path / "job.yaml"), "--address", "http://head:8265"]) == 0
    assert asked[0][0]["dataset"] == {"voc": {**asked[0][0]["dataset"]["voc"], "root": "/not/here"}}


def test_setting_a_field_leaves_the_document_it_was_read_from_as_it_was():
    data = {"search": {"trials": 4}, "detector": "yolo", "dataset": {"shapes": {"train": 8}}}
    document = Document("job.yaml", data, {("search",): 1})
    changes = {"search.trials": 9, "detector.yolo.variant": "nano", "dataset.shapes.val": 4, "training.epochs": 1}
    changed = overridden(document, changes)
    assert document.data == {"search": {"trials": 4}, "detector": "yolo", "dataset": {"shapes": {"train": 8}}}
    assert changed.data == {
        "search": {"trials": 9},
        "detector": {"yolo": {"variant": "nano"}},
        "dataset": {"shapes": {"train": 8, "val": 4}},
        "training": {"epochs": 1},
    }
    assert (changed.file, changed.lines) == (document.file, document.lines)
