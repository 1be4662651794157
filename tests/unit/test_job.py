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

JOB = """\
dataset: {shapes: {}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
search: {trials: 4}
"""
SPACE = """\
input_size: {choices: [128, 160]}
steps:
  - prune: {ratio: {low: 0.1, high: 0.5}}
runtime: onnxruntime
"""


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
    job = plan(search__first=[advised, dense, advised]).job
    found = first_recipes(job)
    assert [origin for _, origin in found] == ["baseline", "baseline", "enqueued"]
    assert Recipe.model_validate(found[2][0]).size == InputSize(128, 128)
    assert [next(iter(step)) for step in found[2][0]["steps"]] == ["quantize"]
    again = Job.model_validate(job.tree())
    assert first_recipes(again) == found


def test_a_loss_may_be_bounded_for_sure_but_is_no_objective(plan):
    sure = plan(constraints={"map_delta_low": {"min": -0.01}}).job.constraints["map_delta_low"]
    assert sure.violation(-0.02, 0.0) == pytest.approx(0.01)
    assert sure.violation(-0.01, 0.0) <= 0
    with pytest.raises(UserErrors, match="map_delta_low is for constraints; the objective is map"):
        plan(objectives={"map_delta_low": "maximize", "latency_ms_p50": "minimize"})


def test_a_recipe_to_try_first_that_the_detector_cannot_do_is_told(plan):
    with pytest.raises(UserErrors) as told:
        plan(search__first=[{"input_size": 63, "runtime": "eager"}])
    (problem,) = told.value.problems
    assert "search.first.0" in problem.message
    assert "even" in problem.message


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
    ("runtime", "scheme", "told"),
    [
        ("onnxruntime", "int8", "onnxruntime's provider cuda computes int8 in float, or on the CPU"),
        ("onnxruntime", "int8_dynamic", "onnxruntime's provider cuda computes int8_dynamic in float, or on the CPU"),
        ("onnxruntime", "fp16", None),
        ("onnxruntime", "weight_only", None),
        ({"onnxruntime": {"provider": "tensorrt"}}, "int8", None),
        ({"onnxruntime": {"provider": "tensorrt"}}, "int8_dynamic", "TensorRT wants ranges that are known beforehand"),
        ("tensorrt", "int8", None),
        ("tensorrt", "int8_dynamic", "TensorRT wants ranges that are known beforehand"),
        ("eager", "int8", "torch has INT8 layers for a CPU only"),
        ("compiled", "int8", "torch has INT8 layers for a CPU only"),
    ],
)
def test_int8_that_a_gpu_would_not_compute_in_is_told_before_anything_runs(plan, runtime, scheme, told):
    space = f"{{input_size: 160, steps: [{{quantize: {{scheme: {scheme}}}}}], runtime: {json.dumps(runtime)}}}"
    gpu = {"targets": {"gpu": {"device": "cuda"}}}
    if told is None:
        plan(space=space, **gpu)
        return
    with pytest.raises(UserErrors, match=r"space.yaml:1: steps: quantize: ") as error:
        plan(space=space, **gpu)
    assert told in str(error.value)
    if runtime in ("onnxruntime", "eager"):
        plan(space=space)  # on a CPU


def test_a_job_survives_its_tree(plan):
    job = plan().job
    assert Job.model_validate(job.tree()) == job


def test_overrides_reach_plugins_written_as_a_word(plan):
    read = plan(JOB.replace("{shapes: {}}", "shapes"), dataset__shapes__seed=7, search__trials=9)
    assert read.job.dataset.seed == 7
    assert read.job.search.trials == 9


@pytest.mark.parametrize(
    ("job", "space", "expected"),
    [
        ({"variant: nano": "variant: nan"}, {}, ["job.yaml:2: detector.yolo.variant"]),
        (
            {"search: {trials: 4}": "serch: {trials: 4}"},
            {},
            ["job.yaml:5: serch: unknown field (did you mean 'search'?)"],
        ),
        ({"shapes": "shape"}, {}, ["job.yaml:1: dataset: unknown dataset 'shape' (did you mean 'shapes'?)"]),
        ({"trials: 4": "trials: 4.5"}, {}, ["job.yaml:5: search.trials:", "(got 4.5)"]),
        ({"space: space.yaml": "space: none.yaml"}, {}, ["job.yaml:4: space: no such file"]),
        ({}, {"0.5": "1.3"}, ["space.yaml:3: steps.0.prune.ratio:", "(got 1.3)"]),
        ({}, {"ratio": "ration"}, ["space.yaml:3: steps.0.prune.ration: unknown field (did you mean 'ratio'?)"]),
        (
            {},
            {"onnxruntime": "onnxruntim"},
            ["space.yaml:4: runtime: unknown runtime 'onnxruntim' (did you mean 'onnxruntime'?)"],
        ),
        ({}, {"[128, 160]": "[128, 161]"}, ["space.yaml:1: input_size:"]),
        ({}, {"- prune": "- quantize: {}\n  - prune"}, ["'prune' stands after 'quantize', which must be the last"]),
        (
            {},
            {"runtime: onnxruntime": "  - quantize: {scheme: fp16}\nruntime: eager"},
            ["space.yaml:4: steps.1.quantize.scheme: scheme is of exported files", "the runtime is eager (got 'fp16')"],
        ),
        (
            {},
            {"runtime: onnxruntime": "  - quantize: {images: 8,\n      keep_float: 2}\nruntime: compiled"},
            ["space.yaml:5: steps.1.quantize.keep_float: keep_float is of exported files", "is compiled (got 2)"],
        ),
        (
            {},
            {"runtime: onnxruntime": "  - quantize: {weight_bits: 8}\nruntime: eager"},
            ["space.yaml:4: steps.1.quantize.weight_bits: INT8 layers of torch have 7 bits", "is eager (got 8)"],
        ),
        (
            {},
            {
                "runtime: onnxruntime": "  - quantize: {max_drop: {choices: [null, 0.01]}}\n"
                "runtime: {choices: [onnxruntime, eager]}"
            },
            ["space.yaml:4: steps.1.quantize.max_drop: max_drop is of exported files", "is eager (got 0.01)"],
        ),
        ({}, {"- prune": "- export\n  - prune"}, ["step 'prune' takes a torch model, but gets onnx"]),
        (
            {"search": "objectives: {mop: maximize, map: maximize}\nsearch"},
            {},
            ["unknown metric 'mop' (did you mean 'map'?)"],
        ),
        ({"search": "objectives: {map: maximize}\nsearch"}, {}, ["two objectives are expected"]),
        (
            {"search": "constraints: {map: {max: 1, min: 0}}\nsearch"},
            {},
            ["job.yaml:5: constraints.map: give one of min"],
        ),
        (
            {"search": "constraints: {latency_ms_p50: {max_drop: 1}}\nsearch"},
            {},
            ["job.yaml:5: constraints: latency_ms_p50 is the better the smaller", "as max, not max_drop"],
        ),
        (
            {
                "search": "objectives: {map: maximize, energy_mj_image: minimize}\n"
                "measuring: {energy_seconds: 0}\nsearch"
            },
            {},
            ["job.yaml:5: objectives.energy_mj_image: energy is not taken: measuring.energy_seconds is 0"],
        ),
        (
            {"search": "measuring: {energy_seconds: 3}\nsearch"},
            {},
            ["job.yaml:5: measuring.energy_seconds", "need 5 s at least"],
        ),
        (
            {"search": "constraints: {device_mib_peak: {max: 500}}\nsearch"},
            {},
            ["job.yaml:5: constraints.device_mib_peak: target 'local' is a CPU; memory_mib_peak is what it has"],
        ),
        ({"input_size: 160": "input_size: 16x"}, {}, ["job.yaml:3: input_size: expected one number"]),
    ],
)
def test_mistakes(plan, job, space, expected):
    def changed(text, changes):
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return text

    with pytest.raises(UserErrors) as caught:
        plan(changed(JOB, job), changed(SPACE, space))
    for part in expected:
        assert part in str(caught.value)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "none.yaml"], "none.yaml:1: cannot be read"),
        (["sweep", "none.yaml"], "none.yaml: cannot be read"),
        (["front", "../x"], "sweep name '../x'"),
        (["front", "nothing-of-that-name"], "no sweep 'nothing-of-that-name'"),
        (["plugins", "stp"], "unknown kind 'stp' (did you mean 'step'?)"),
    ],
)
def test_bad_arguments_end_with_2_and_one_clear_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_trial_is_measured_as_thoroughly_as_its_job_says(plan):
    asked = plan().job.measuring
    assert asked.energy_seconds == SHORTEST == WINDOW
    protocol = protocol_of(asked)
    assert (asked.repetitions, asked.seconds) == (protocol.repetitions, protocol.seconds)
    assert (asked.max_extra_repetitions, asked.contention_wait_seconds) == (protocol.spare, protocol.patience)
    assert plan(measuring__contention_wait_seconds=0).job.measuring.contention_wait_seconds == 0
    with pytest.raises(UserErrors, match=r"measuring\.rounds"):
        plan(measuring__rounds=1)
    with pytest.raises(UserErrors, match=r"measuring\.repetitions"):  # of one process, no ratio has an interval
        plan(measuring__repetitions=1)


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
    monkeypatch.setattr("paretune.distributed.ray_jobs.submit", lambda *given, **_: asked.append(given) or 0)
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
