"""The grammar of search spaces."""

from __future__ import annotations

import itertools
from contextlib import nullcontext

import optuna
import pytest

from paretune.core.errors import UserErrors
from paretune.core.yaml_document import read_yaml
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.space import Choices, Range
from paretune.search.space_reader import read_space

SPACE = """\
input_size: {choices: [128, 192x144]}
steps:
  - name: slim
    choices:
      none: null
      pruned:
        - prune: {ratio: {low: 0.1, high: 0.3, step: 0.1}, round_to: 8}
        - finetune: {epochs: {low: 2, high: 4}, lr_factor: {low: 1e-2, high: 1, log: true}}
  - name: precision
    choices: {fp32: null, int8: {quantize: {images: 64}}}
runtime: onnxruntime
first:
  - {slim: pruned, slim.pruned.prune.ratio: 0.2}
"""


@pytest.fixture
def space(tmp_path):
    def reader(text=SPACE):
        path = tmp_path / "s.yaml"
        path.write_text(text)
        return read_space(read_yaml(path, "s.yaml"))

    return reader


def test_parameters_are_named_by_their_place(space):
    parameters = space().parameters
    assert list(parameters) == [
        "input_size",
        "slim",
        "slim.pruned.prune.ratio",
        "slim.pruned.finetune.epochs",
        "slim.pruned.finetune.lr_factor",
        "precision",
    ]
    assert parameters["slim.pruned.finetune.epochs"].whole
    assert not parameters["slim.pruned.prune.ratio"].whole


STEPPED = "input_size: 64\nsteps: [{finetune: {lr_factor: {low: 1, high: 3, step: 0.5}}}]\nruntime: eager\n"


def test_whole_ends_with_a_step_of_a_half_are_no_whole_numbers(space):
    found = space(STEPPED)
    assert [sample.value["steps"] for sample in found.corners()] == [
        [{"finetune": {"lr_factor": end}}] for end in (1.0, 3.0)
    ]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = {found.sample(OptunaChooser(study.ask())).value["steps"][0]["finetune"]["lr_factor"] for _ in range(40)}
    assert drawn == {1, 1.5, 2, 2.5, 3}


@pytest.mark.parametrize(
    ("written", "value", "right"),
    [
        ("{low: 2, high: 8}", 4.5, False),
        ("{low: 0.2, high: 0.7, step: 0.1}", 0.25, False),
        ("{low: 0.2, high: 0.7, step: 0.05}", 0.65, True),
        ("{low: 2, high: 8}", 4, True),
    ],
)
def test_a_first_point_lies_on_the_steps_of_its_range(tmp_path, written, value, right):
    (tmp_path / "s.yaml").write_text(f"size: {written}\nfirst: [{{size: {value}}}]\n")
    document = read_yaml(tmp_path / "s.yaml", "s.yaml")
    with nullcontext() if right else pytest.raises(UserErrors):
        read_space(document)
    assert read_space(document, kept=True).first == ({"size": value},)  # a sweep begun with it goes on


DEPLOY = """\
steps: [{prune: {ratio: 0.5}}]
deploy:
  choices:
    torch: {runtime: eager}
    file:
      steps: [{quantize: {images: {low: 4, high: 8}}}]
      runtime: onnxruntime
"""


def test_the_last_steps_are_chosen_with_their_runtime(space):
    found = space(DEPLOY)
    assert list(found.parameters) == ["deploy", "deploy.file.quantize.images"]
    corners = list(found.corners())
    assert [sample.value for sample in corners] == [
        {"steps": [{"prune": {"ratio": 0.5}}], "runtime": "eager"},
        {"steps": [{"prune": {"ratio": 0.5}}, {"quantize": {"images": 4}}], "runtime": "onnxruntime"},
        {"steps": [{"prune": {"ratio": 0.5}}, {"quantize": {"images": 8}}], "runtime": "onnxruntime"},
    ]
    assert corners[1].lines["steps", 1, "quantize", "images"] == 6
    assert (corners[0].lines["runtime",], corners[1].lines["runtime",]) == (4, 7)


@pytest.mark.parametrize(
    "change", [("runtime: eager", "runs: eager"), ("steps: [{prune", "runtime: eager\nsteps: [{prune")]
)
def test_a_deploy_that_is_none_is_left_for_the_recipe_to_refuse(space, change):
    value = next(space(DEPLOY.replace(*change, 1)).corners()).value
    assert "deploy" in value


def test_corners_meet_every_option_and_both_ends(space):
    corners = [sample.value for sample in space().corners()]
    text = str(corners)
    factors = ("'lr_factor': 0.01", "'lr_factor': 1")
    for part in ("128", "'192x144'", "0.1", "0.3", "'epochs': 2", "'epochs': 4", *factors, "quantize"):
        assert part in text
    assert len(corners) == 1 + 5 + 1  # six parameters of two alternatives; the first corner


def test_corners_meet_every_option_with_every_runtime(space):
    text = SPACE.replace("runtime: onnxruntime", "runtime: {choices: [onnxruntime, openvino, eager]}")
    corners = [sample.value for sample in space(text).corners()]
    met = {(corner["runtime"], str(corner["steps"])) for corner in corners}
    lists = {steps for _, steps in met}
    assert len(lists) == 1 + 4 + 1  # as above but for the input size
    assert met == set(itertools.product(("onnxruntime", "openvino", "eager"), lists))
    assert len(corners) == 3 * (1 + 5 + 1)


def test_null_options_vanish_and_lists_are_spliced(space):
    for corner in space().corners():
        assert all(isinstance(step, dict) for step in corner.value["steps"])
    assert max(len(corner.value["steps"]) for corner in space().corners()) == 2


class _Fixed:
    """Takes the alternatives told, in order."""

    def __init__(self, picks):
        self.picks = picks

    def number(self, node: Range):
        return self.picks[node.name]

    def option(self, node: Choices):
        return self.picks[node.name]


def test_every_combination_draws_what_was_picked(space):
    grid = itertools.product([128, "192x144"], [0.1, 0.2], [2, 3], ["fp32", "int8"])
    for size, ratio, epochs, precision in grid:
        picks = {
            "input_size": size,
            "slim": "pruned",
            "slim.pruned.prune.ratio": ratio,
            "slim.pruned.finetune.epochs": epochs,
            "slim.pruned.finetune.lr_factor": 0.1,
            "precision": precision,
        }
        drawn = space().sample(_Fixed(picks)).value
        steps = [{"prune": {"ratio": ratio, "round_to": 8}}, {"finetune": {"epochs": epochs, "lr_factor": 0.1}}]
        steps += [{"quantize": {"images": 64}}] if precision == "int8" else []
        assert drawn == {"input_size": size, "steps": steps, "runtime": "onnxruntime"}


def test_lines_follow_the_drawn_places(space):
    sample = space().sample(_Fixed({"input_size": 128, "slim": "none", "precision": "int8"}))
    assert sample.lines[("steps", 0, "quantize", "images")] == 10
    assert sample.lines[("runtime",)] == 11
