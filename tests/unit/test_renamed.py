"""Fields that have a new name are read by their older one for one version, and a note says so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from paretune.cli.main import main
from paretune.compression import STEPS
from paretune.compression.prune.step import Prune
from paretune.config.job import Job
from paretune.config.plan import Plan, read_plan
from paretune.config.recipe import Recipe, present_names
from paretune.core.errors import UserErrors
from paretune.core.recipe_text import recipe_line
from paretune.core.spec import parse_plugin
from paretune.core.yaml_document import Document
from paretune.detectors import DETECTORS
from paretune.results.advice_outcomes import AdvicePrediction, pairs
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.search.space_reader import read_space
from paretune.storage.trial_record import Record
from paretune.workflows.sweep import run_trials
from paretune.workflows.sweep_reporter import SweepReporter

JOB = """\
dataset: shapes
detector: {faster_rcnn: {least: 0.2}}
input_size: 160
space: space.yaml
training: {readers: 3}
measuring: {spare: 1, patience: 2, energy: 7}
search: {trials: 4, sampler: random}
"""
SPACE = "{steps: [{prune: {ratio: 0.3, of: {choices: [channels, flops]}}}], runtime: onnxruntime, first: [%s]}"
NOTES = {
    "faster_rcnn.least is called faster_rcnn.min_proposal_score now",
    "training.readers is called training.loader_threads now",
    "measuring.spare is called measuring.max_extra_repetitions now",
    "measuring.patience is called measuring.contention_wait_seconds now",
    "measuring.energy is called measuring.energy_seconds now",
    "prune.of is called prune.budget now",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE % "")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("paretune.core.yaml_document._noted", set())
    return tmp_path


def figures(plan: Plan) -> tuple[float, ...]:
    measuring, detector = plan.job.measuring, plan.job.detector.tree()
    more = (measuring.max_extra_repetitions, measuring.contention_wait_seconds, measuring.energy_seconds)
    return (detector["min_proposal_score"], plan.job.training.loader_threads, *more)


def test_older_names_of_a_job_and_its_space_are_read_with_one_note_each(place: Path, capsys: Any) -> None:
    for _ in range(2):
        plan = read_plan(Path("job.yaml"))
        assert figures(plan) == (0.2, 3, 1, 2, 7)
    lines = capsys.readouterr().err.splitlines()
    assert {line.partition("note: ")[2].partition(";")[0] for line in lines} == NOTES
    assert len(lines) == len(NOTES)
    assert all(line.endswith("the older name is accepted in this version only") for line in lines)
    assert list(plan.space.parameters) == ["prune.of"]  # a parameter is called what its file says
    assert not {"least", "readers", "spare", "of"} & set(json.dumps(plan.job.tree()).split('"'))


def test_present_names_print_nothing(place: Path, capsys: Any) -> None:
    new = JOB.replace("least", "min_proposal_score").replace("readers", "loader_threads")
    new = new.replace(
        "spare: 1, patience: 2, energy", "max_extra_repetitions: 1, contention_wait_seconds: 2, energy_seconds"
    )
    Path("job.yaml").write_text(new)
    Path("space.yaml").write_text((SPACE % "").replace("of:", "budget:"))
    plan = read_plan(Path("job.yaml"))
    assert figures(plan) == (0.2, 3, 1, 2, 7)
    assert list(plan.space.parameters) == ["prune.budget"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["spare", "max_extra_repetitions"])
@pytest.mark.parametrize("written", ["spare", "max_extra_repetitions"])
def test_either_name_is_set_over_either(place: Path, name: str, written: str) -> None:
    Path("job.yaml").write_text(JOB.replace("spare", written))
    plan = read_plan(Path("job.yaml"), {f"measuring.{name}": 0, "detector.faster_rcnn.min_proposal_score": 0.5})
    assert figures(plan)[0] == 0.5
    assert figures(plan)[2] == 0
    assert main(["check", "job.yaml", "--set", f"measuring.{name}=-1"]) == 2


@pytest.mark.parametrize("point", ["prune.of: flops", "prune.budget: flops"])
@pytest.mark.parametrize("field", ["of", "budget"])
def test_a_first_point_may_use_either_name_of_a_parameter(place: Path, point: str, field: str) -> None:
    Path("space.yaml").write_text((SPACE % f"{{{point}}}").replace("of:", f"{field}:", 1))
    assert read_plan(Path("job.yaml")).space.first == ({f"prune.{field}": "flops"},)


def test_a_named_parameter_is_not_taken_for_a_renamed_one() -> None:
    data = {"input_size": {"choices": [64, 96], "name": "budget"}, "runtime": "eager", "first": [{"of": 64}]}
    with pytest.raises(UserErrors, match="no parameter 'of'"):
        read_space(Document("space.yaml", data, {}), renamed={"prune.of": "prune.budget"})


def test_a_recorded_recipe_is_the_one_that_is_proposed_now(place: Path) -> None:
    old = {**Recipe.model_validate({"steps": [{"prune": {"ratio": 0.3}}], "runtime": "eager"}).tree()}
    now = json.loads(json.dumps(old))
    fields = old["steps"][0]["prune"]
    fields["of"] = fields.pop("budget")
    assert present_names(old) == now
    assert present_names({"input_size": 160, "steps": [{"gone": {"of": 1}}, "export"], "runtime": {"off": {}}}) == {
        "input_size": 160,
        "steps": [{"gone": {"of": 1}}, "export"],
        "runtime": {"off": {}},
    }
    assert (
        recipe_line({**old, "input_size": 160}) == recipe_line({**now, "input_size": 160}) == "160 prune 0.3 l1 → eager"
    )
    before = Recipe.model_validate({"runtime": "eager"}).tree()
    result: Any = {"metrics": {}, "reasons": {}, "notes": (), "artefact": "a", "started": 0.0}
    records = [Record.complete(n, recipe, {}, "sampled", **result) for n, recipe in ((3, before), (7, old))]
    assert pairs([AdvicePrediction("prune", 2.0, now, before)], records) == [(7, 3)]


def test_a_sweep_of_before_goes_on_and_repeats_no_recipe(place: Path, capsys: Any) -> None:
    sweep = new_sweep(read_plan(Path("job.yaml")), "one")
    facts = json.loads((sweep.folder / "sweep.json").read_text())
    measuring = facts["job"]["measuring"]
    for old, new in (("spare", "max_extra_repetitions"), ("patience", "contention_wait_seconds")):
        measuring[old] = measuring.pop(new)
    (sweep.folder / "sweep.json").write_text(json.dumps(facts))
    again = Sweep(sweep.runs, sweep.name)
    capsys.readouterr()
    assert again.job == sweep.job
    assert list(again.space.parameters) == ["prune.of"]
    ran: list[str] = []

    def tune(_trial: Any, searcher: Any, *, most: int = 100, **_: Any) -> None:
        from paretune.storage.trial_record import write_record

        for turn in range(most):
            proposal = searcher.suggest(str(turn))
            if proposal == searcher.FINISHED:
                return
            recipe = json.loads(json.dumps(proposal["recipe"]).replace('"budget"', '"of"'))  # as it was written then
            ran.append(recipe_line(recipe))
            result: Any = {"metrics": {"map": 0.5, "latency_ms": 3.0}, "reasons": {}, "notes": (), "artefact": "a"}
            what = (proposal["number"], recipe, {}, proposal["origin"])
            write_record(again.folder, Record.complete(*what, started=1.0, **result))
            searcher.on_trial_complete(str(turn), {})

    class Quiet(SweepReporter):
        def trial_done(self, _record: Record) -> None:
            pass

    run_trials(again, Quiet(again), share=2, tuner=lambda *words, **more: tune(*words, **more, most=3))
    run_trials(Sweep(sweep.runs, sweep.name), Quiet(again), share=2, tuner=tune)
    assert len(ran) == len(set(ran)) == 4
    assert capsys.readouterr().err == ""  # nobody can change what was written then


def test_a_row_that_is_no_record_hinders_no_space(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STEPS.rows, "odd", "collections:Counter")
    assert list(read_plan(Path("job.yaml")).space.parameters) == ["prune.of"]
    assert present_names({"steps": [{"odd": {"of": 1}}]}) == {"steps": [{"odd": {"of": 1}}]}


def test_python_and_artefacts_may_use_the_older_name() -> None:
    assert Prune.model_validate({"ratio": 0.5, "of": "flops"}) == Prune(ratio=0.5, budget="flops")
    assert parse_plugin({"faster_rcnn": {"least": 0.2}}, DETECTORS).tree()["min_proposal_score"] == 0.2
    every = {"variant", "weights", "proposals", "least", "samples", "anchor", "head_width"}
    old = {**dict.fromkeys(every), "variant": "resnet50_fpn", "weights": "COCO_V1", "proposals": 100}
    old |= {"least": 0.05, "samples": 512, "anchor": 32}
    assert parse_plugin({"faster_rcnn": old}, DETECTORS).tree()["transform"] == "own"
    job = {"dataset": "shapes", "detector": "yolo", "space": "none.yaml", "measuring": {"energy": 3}}
    with pytest.raises(ValueError, match="need 5 s at least"):
        Job.model_validate(job)


def test_a_class_that_no_other_process_can_import_is_pickled_whole() -> None:
    """As Ray sends it to its workers: a dataset that somebody has written in a notebook."""
    from ray import cloudpickle

    class Mine(Prune):
        name: ClassVar[str] = "mine"

    sent = cloudpickle.dumps(Mine(ratio=0.2))
    code = f"import pickle; print(pickle.loads({sent!r}).ratio)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0.2\n"
