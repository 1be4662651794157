"""The sampler of the whole conditional space, on an invented function of a conditional space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from paretune.core.yaml_document import Document
from paretune.search.conditional_model import gains
from paretune.search.conditional_points import IMPUTED, ConditionalPoints, share_of, value_at
from paretune.search.conditional_sampler import ConditionalSampler
from paretune.search.expected_improvement import expected_hypervolume_improvement, non_dominated, reference_of
from paretune.search.gaussian_process import fitted
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.pareto_front import hypervolume_2d
from paretune.search.space import Range, Space
from paretune.search.space_reader import read_space

WRITTEN: dict[str, Any] = {
    "input_size": {"choices": ["160x128", "128x96"]},
    "steps": [
        {
            "name": "slim",
            "choices": {
                "none": None,
                "pruned": [
                    {"prune": {"ratio": {"low": 0.2, "high": 0.7, "step": 0.05}, "round_to": {"choices": [4, 8]}}}
                ],
                "factorized": [{"factorize": {"energy": {"low": 0.7, "high": 0.95}}}],
            },
        },
        {
            "name": "tuned",
            "choices": {"none": None, "trained": {"finetune": {"lr_factor": {"low": 0.1, "high": 1.0, "log": True}}}},
        },
    ],
    "runtime": {"choices": ["eager", "onnxruntime", "openvino"]},
}
RATIO, LR = "slim.pruned.prune.ratio", "tuned.trained.finetune.lr_factor"
Values = tuple[float, float]


@pytest.fixture(name="space", scope="module")
def _space() -> Space:
    return read_space(Document("space.yaml", WRITTEN, {}))


def invented(point: Mapping[str, Any]) -> Values:
    """Return (quality, cost) of a point: pruning costs quality unless the network is trained at a middle rate."""
    cost = {"eager": 10.0, "onnxruntime": 3.0, "openvino": 2.0}[point["runtime"]]
    cost *= 0.6 if point["input_size"] == "128x96" else 1.0
    quality = 0.45 if point["input_size"] == "128x96" else 0.5
    ratio = point.get(RATIO, 0.0)
    cost, lost = cost * (1 - ratio), 0.4 * ratio**2 + (0.1 if point["slim"] == "factorized" else 0.0)
    if point["tuned"] == "trained":
        lost = lost / 3 + 0.05 * math.log(point[LR] / 0.3) ** 2
    return quality - lost, cost


def search(
    space: Space,
    sampler: optuna.samplers.BaseSampler,
    trials: int,
    constraint: Callable[[Values], float] | None = None,
    fails: Callable[[Mapping[str, Any]], bool] = lambda _: False,
) -> optuna.Study:
    """Run a study of the invented function."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for _ in range(trials):
        trial = study.ask()
        space.sample(OptunaChooser(trial))
        if fails(trial.params):
            study.tell(trial, state=TrialState.FAIL)
            continue
        values = invented(trial.params)
        if constraint is not None:
            trial.set_constraint("limit", constraint(values))
        study.tell(trial, list(values))
    return study


def volume(study: optuna.Study, least: float = 0.0) -> float:
    """Return the hypervolume of a study's trials of at least some quality."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    return hypervolume_2d([(t.values[0], math.log(20 / t.values[1])) for t in complete], (least, 0.0))


def test_drawn_and_changed_points_are_points_of_the_space(space: Space) -> None:
    points = ConditionalPoints(space, np.random.default_rng(0))
    for _ in range(200):
        point = points.draw()
        assert space.point_problems(point) == []
        assert points.is_complete(point)
        assert (RATIO in point) == (point["slim"] == "pruned")
        changed = points.changed(point, {"runtime": point["runtime"]})
        assert points.is_complete(changed)
        assert changed["runtime"] == point["runtime"]


def test_a_point_that_lacks_a_parameter_or_has_one_too_many_is_not_complete(space: Space) -> None:
    points = ConditionalPoints(space, np.random.default_rng(0))
    whole = {"input_size": "128x96", "slim": "none", "tuned": "none", "runtime": "eager"}
    assert points.is_complete(whole)
    assert not points.is_complete({**whole, RATIO: 0.2})
    assert not points.is_complete({**whole, "slim": "pruned"})
    assert not points.is_complete({**whole, "runtime": "tensorrt"})


def test_the_encoding_flags_the_chosen_option_and_imputes_the_numbers_of_the_others(space: Space) -> None:
    points = ConditionalPoints(space, np.random.default_rng(0))
    point = {"input_size": "128x96", "slim": "none", "tuned": "trained", LR: 1.0, "runtime": "eager"}
    other = {**point, "slim": "pruned", RATIO: 0.7, "slim.pruned.prune.round_to": 8}
    one, two = points.encoded([point, other])
    columns = np.flatnonzero(one != two)
    assert sorted(zip(one[columns], two[columns], strict=True)) == [(0, 1), (IMPUTED, 1), (IMPUTED, 1), (1, 0)]


@pytest.mark.parametrize(
    "node",
    [
        Range("a", 0.2, 0.7, 0.05, log=False, line=1),
        Range("a", 3, 30, None, log=False, line=1),
        Range("a", 1, 64, None, log=True, line=1),
        Range("a", 1e-4, 1e-2, None, log=True, line=1),
        Range("a", 0.5, 0.5, None, log=False, line=1),
    ],
)
def test_every_place_of_a_range_has_a_valid_number(node: Range) -> None:
    values = [value_at(node, float(share)) for share in np.linspace(0, 1, 101)]
    assert [node.problem(value) for value in values if node.problem(value)] == []
    assert (values[0], values[-1]) == pytest.approx((node.low, node.high))
    assert all(0 <= share_of(node, value) <= 1 for value in values)


def test_the_process_finds_which_column_matters_and_how_sure_it_is() -> None:
    random = np.random.default_rng(0)
    x = random.random((60, 4))
    y = np.sin(5 * x[:, 0]) + 0.05 * random.normal(size=60)
    process = fitted(x, (y - y.mean()) / y.std(), 4)
    assert process.parameters[0] > process.parameters[1:4].max() + 2  # logarithms of inverse squared lengths
    new = random.random((400, 4))
    mean, deviation = process.predict(new)
    errors = (np.sin(5 * new[:, 0]) - y.mean()) / y.std() - mean
    assert np.abs(errors).mean() < 0.1
    assert (np.abs(errors) < 2 * deviation).mean() > 0.85
    assert process.predict(new + 5)[1].min() > 3 * deviation.mean()


def test_an_observation_of_what_was_expected_changes_the_certainty_alone() -> None:
    random = np.random.default_rng(1)
    x = random.random((20, 2))
    y = x[:, 0] - x[:, 0].mean()
    process = fitted(x, y / y.std(), 2)
    place = np.array([[0.5, 0.5]])
    before, after = process.predict(place), process.with_observations(place).predict(place)
    assert after[0] == pytest.approx(before[0], abs=1e-6)
    assert after[1] < before[1]


def test_the_expected_improvement_is_that_of_many_draws() -> None:
    random = np.random.default_rng(2)
    front = np.array([[1.0, 0.0], [0.5, 0.6], [0.0, 1.0]])
    reference = reference_of(front)
    mean, deviation = np.array([[0.6, 0.7], [1.2, -0.3], [0.2, 0.2]]), np.array([[0.3, 0.2], [0.1, 0.4], [0.05, 0.05]])
    known = expected_hypervolume_improvement(front, reference, mean, deviation)
    before = hypervolume_2d([*map(tuple, front)], tuple(reference))
    for row in range(3):
        drawn = random.normal(mean[row], deviation[row], (4000, 2))
        volumes = [hypervolume_2d([*map(tuple, front), tuple(point)], tuple(reference)) for point in drawn]
        assert known[row] == pytest.approx(np.mean(volumes) - before, abs=0.01)


def test_of_equal_points_the_first_is_not_dominated() -> None:
    values = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.4, 0.5], [0.0, 1.0]])
    assert non_dominated(values).tolist() == [True, False, True, False, True]


def test_costs_are_compared_by_their_ratios() -> None:
    made, noise = gains(np.array([1.0, 10.0, 100.0]), optuna.study.StudyDirection.MINIMIZE, np.array([0.0, 1.0, 10.0]))
    assert made[0] - made[1] == pytest.approx(made[1] - made[2])
    assert made[0] > made[2]
    assert noise == pytest.approx(np.array([0.0, 0.1, 0.1]) ** 2 / np.var(np.log([1.0, 10.0, 100.0])))


def test_it_finds_more_than_twice_as_many_random_draws(space: Space) -> None:
    found = [volume(search(space, ConditionalSampler(space, seed, 6), 25)) for seed in range(3)]
    drawn = [volume(search(space, optuna.samplers.RandomSampler(seed), 50)) for seed in range(8)]
    assert np.mean(found) > np.mean(drawn)


def test_where_a_constraint_is_kept_it_finds_more_than_twice_as_many_draws(space: Space) -> None:
    def kept(sampler: optuna.samplers.BaseSampler, trials: int) -> float:
        return volume(search(space, sampler, trials, lambda values: 0.45 - values[0]), 0.45)

    found = [kept(ConditionalSampler(space, seed, 6), 24) for seed in range(2)]
    drawn = [kept(optuna.samplers.RandomSampler(seed), 48) for seed in range(8)]
    assert np.mean(found) > np.mean(drawn)


def test_it_leaves_options_whose_trials_fail(space: Space) -> None:
    study = search(space, ConditionalSampler(space, 0, 6), 24, fails=lambda point: point["runtime"] == "openvino")
    assert np.mean([t.params["runtime"] == "openvino" for t in study.trials[12:]]) < 0.2


def test_given_values_stay_and_running_trials_are_not_proposed_again(space: Space) -> None:
    study = search(space, ConditionalSampler(space, 0, 6), 12)
    given = {"runtime": "eager", "slim": "pruned", RATIO: 0.45}
    study.enqueue_trial(given)
    asked = []
    for _ in range(4):
        trial = study.ask()
        space.sample(OptunaChooser(trial))
        asked.append(trial.params)
    assert {name: asked[0][name] for name in given} == given
    assert len({str(sorted(point.items())) for point in asked}) == 4


@pytest.mark.slow
def test_a_proposal_at_200_trials_takes_less_than_a_second() -> None:
    written = Path(__file__).parents[1] / "data" / "search_tables" / "space.yaml"
    from paretune.core.yaml_document import read_yaml

    space = read_space(read_yaml(written))
    points, random = ConditionalPoints(space, np.random.default_rng(0)), np.random.default_rng(1)
    study = search_of_noise(space, points, random)
    start = time.process_time()
    for _ in range(5):
        space.sample(OptunaChooser(study.ask()))
    assert (time.process_time() - start) / 5 < 1


def search_of_noise(space: Space, points: ConditionalPoints, random: np.random.Generator) -> optuna.Study:
    """Return a study of 200 finished trials with two constraints."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ConditionalSampler(space, 0, 8))
    for _ in range(200):
        study.enqueue_trial(points.draw())
        trial = study.ask()
        space.sample(OptunaChooser(trial))
        values = random.random(2) + 0.1
        trial.set_constraint("map", float(values[0] - 0.5))
        trial.set_constraint("size", float(values[1] - 0.8))
        study.tell(trial, list(values))
    return study
