"""A new sweep begins with the front of an earlier one, as far as it lies in the new space."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from paretune.config.plan import read_plan
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.yaml_document import Document
from paretune.results.sweep_folder import Sweep, new_sweep
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.pareto_front import Objective, hypervolume_2d
from paretune.search.recipe_point import by_expected_gain, point_of
from paretune.search.space import Space
from paretune.search.space_reader import read_space
from paretune.search.study_file import NUMBER
from paretune.storage.trial_record import Record, write_record
from paretune.workflows.earlier_front import earlier_front, earlier_points
from paretune.workflows.sweep_identity import KEY

JOB = """\
dataset: {shapes: {}}
detector: {yolo: {variant: nano}}
input_size: 160
space: space.yaml
search: {trials: 12, sampler: random}
"""
SPACE = """\
input_size: {choices: [128, 160]}
steps: [{prune: {ratio: {low: 0.1, high: 0.8}}}]
runtime: {choices: [onnxruntime, openvino]}
"""
VERSIONS = {2: (128, 0.2, 0.48, 3.0), 3: (160, 0.75, 0.40, 1.0), 4: (160, 0.3, 0.30, 2.0), 5: (128, 0.5, 0.47, 2.5)}
"""Trial → input size, ratio, accuracy and latency; 4 is dominated by 3."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(JOB)
    (tmp_path / "space.yaml").write_text(SPACE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sweep_of(name: str, classes: tuple[str, ...] = ("a", "b"), **fields: Any) -> Sweep:
    """Return a new sweep whose data have some classes."""
    sweep = new_sweep(read_plan(Path("job.yaml"), fields), name)
    sweep.note(**{KEY: {"data": {"classes": list(classes)}}})
    return sweep


def run(sweep: Sweep) -> Sweep:
    """Write the records and the study of a finished sweep."""
    study = optuna.create_study(
        study_name=sweep.name, storage=f"sqlite:///{sweep.folder}/study.db", directions=["maximize", "minimize"]
    )
    recipes: dict[int, tuple[Any, str, float, float]] = {}
    for number, runtime in enumerate(("eager", "onnxruntime")):
        base = Recipe.model_validate({"input_size": 160, "runtime": runtime})
        recipes[number] = base, "baseline", 0.5, (8.0, 4.0)[number]
    for number, (size, ratio, quality, latency) in VERSIONS.items():
        study.enqueue_trial({"input_size": size, "prune.ratio": ratio, "runtime": "openvino"})
        trial = study.ask()
        drawn = sweep.space.sample(OptunaChooser(trial)).value
        trial.set_user_attr(NUMBER, number)
        recipes[number] = Recipe.model_validate(drawn), "sampled", quality, latency
    for number, (recipe, origin, quality, latency) in recipes.items():
        metrics = {"map": quality, "latency_ms": latency}
        record = Record.complete(
            number, recipe.tree(), recipe.params(), origin, metrics=metrics, reasons={}, notes=(), artefact="a",
            started=1.0,
        )  # fmt: skip
        write_record(sweep.folder, record)
    sweep.mark_finished()
    return sweep


def test_a_new_sweep_takes_the_front_in_the_order_of_expected_gain(place: Path) -> None:
    run(sweep_of("old"))
    lines: list[str] = []
    sweep = sweep_of("new")
    points = earlier_points(sweep, lines.append)
    assert [(point["input_size"], point["prune.ratio"]) for point in points] == [(160, 0.75), (128, 0.5), (128, 0.2)]
    assert {point["runtime"] for point in points} == {"openvino"}
    assert "3 from the front of sweep 'old'" in lines[0]
    assert json.loads((sweep.folder / "sweep.json").read_text())["earlier"]["sweep"] == "old"
    again = Sweep(sweep.runs, "new")
    run(sweep_of("newer"))
    assert earlier_points(again, lines.append) == points
    assert len(lines) == 1  # a resumed sweep has the points that it began with


def test_versions_that_do_not_fit_the_new_space_are_counted(place: Path) -> None:
    run(sweep_of("old"))
    (place / "space.yaml").write_text(SPACE.replace("high: 0.8", "high: 0.6"))
    lines: list[str] = []
    points = earlier_points(sweep_of("new"), lines.append)
    assert [point["prune.ratio"] for point in points] == [0.5, 0.2]
    assert "1 of it do not fit this space" in lines[0]


def test_at_most_a_third_of_the_trials_come_from_it(place: Path) -> None:
    run(sweep_of("old"))
    front = earlier_front(sweep_of("new", **{"search.trials": 6}))
    assert front is not None
    assert [point["prune.ratio"] for point in front.points] == [0.75, 0.5]


@pytest.mark.parametrize("fields", [{"search.earlier": "none"}, {"detector": {"yolo": {"variant": "s"}}}])
def test_nothing_is_taken_where_the_job_forbids_it_or_the_detector_differs(place: Path, fields: dict[str, Any]) -> None:
    run(sweep_of("old"))
    assert earlier_points(sweep_of("new", **fields), lambda _: None) == []


def test_nothing_is_taken_from_sweeps_with_other_classes_or_unfinished_ones(place: Path) -> None:
    run(sweep_of("old", classes=("a", "c")))
    unfinished = run(sweep_of("begun"))
    (unfinished.folder / "finished").unlink()
    assert earlier_front(sweep_of("new")) is None


@pytest.mark.parametrize(
    ("named", "message"), [("gone", "no sweep 'gone'"), ("begun", "not finished"), ("old", "other classes")]
)
def test_a_named_sweep_that_cannot_be_taken_is_an_error(place: Path, named: str, message: str) -> None:
    run(sweep_of("old", classes=("z",)))
    sweep_of("begun")
    with pytest.raises(UserError, match=message):
        earlier_front(sweep_of("new", **{"search.earlier": named}))


def test_a_recipe_is_found_in_a_space_with_other_choices_around_it() -> None:
    def space(steps: list[Any], runtime: Any) -> Space:
        return read_space(Document("s.yaml", {"input_size": 160, "steps": steps, "runtime": runtime}, {}))

    def normal(raw: Any) -> Any:
        return Recipe.model_validate(raw).tree()

    prune = {"prune": {"ratio": {"low": 0.1, "high": 0.8}}}
    recipe = normal({"input_size": 160, "steps": [{"prune": {"ratio": 0.4}}], "runtime": "openvino"})
    known = {"prune.ratio": 0.4, "gone": 3}
    wider = space([prune, {"name": "then", "choices": {"tuned": {"finetune": {"epochs": 3}}, "none": None}}],
                  {"choices": ["onnxruntime", "openvino"]})  # fmt: skip
    point = point_of(wider, recipe, normal, known)
    assert point == {"prune.ratio": 0.4, "then": "none", "runtime": "openvino"}
    assert point_of(wider, recipe, normal, {}) is None  # the ratio is not known
    without = space([prune, {"finetune": {"epochs": {"choices": [3, 4]}}}], "openvino")
    assert point_of(without, recipe, normal, known) is None


def test_the_order_is_the_greedy_one_by_hypervolume() -> None:
    objectives = [Objective("map", "maximize"), Objective("latency_ms", "minimize")]
    points = [{"map": 0.5, "latency_ms": 4.0}, {"map": 0.3, "latency_ms": 1.0}, {"map": 0.48, "latency_ms": 1.5}]
    order = by_expected_gain(points, objectives, {"map": 0.5, "latency_ms": 8.0})
    assert [index for index, _ in order] == [2, 1, 0]
    from math import log

    areas = [(point["map"], log(8 / point["latency_ms"])) for point in points]
    assert sum(gain or 0 for _, gain in order) == pytest.approx(hypervolume_2d(areas, (0.0, 0.0)))
    assert by_expected_gain(points, [objectives[0], objectives[0]], {}) == [(0, None), (1, None), (2, None)]
