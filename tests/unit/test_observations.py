"""What samplers learn beyond plain values: noise, constraints, and values of trials that were stopped or paused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import multivariate_normal

from paretune.core.yaml_document import Document
from paretune.search.conditional_model import ConditionalModel, Modelled, Results
from paretune.search.conditional_points import ConditionalPoints
from paretune.search.gaussian_process import JITTER, LENGTH, NOISE, SCALE, GaussianProcess, conditioned, fitted
from paretune.search.observations import NOTHING, OBSERVED, deviation_of, expected, measured
from paretune.search.optuna_chooser import OptunaChooser
from paretune.search.samplers import SAMPLERS
from paretune.search.space_reader import read_space
from paretune.search.study import Study
from paretune.search.study_database import StudyDatabase
from paretune.search.study_settings import Proposal, StudySettings
from paretune.storage.trial_record import EXPECTED, Record

Floats = NDArray[np.float64]
SPACE = read_space(
    Document(
        "space.yaml",
        {"input_size": {"choices": [64, 96, 128]}, "steps": [{"prune": {"ratio": {"low": 0.0, "high": 0.8}}}]},
        {},
    )
)
RATIO = "prune.ratio"
DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
OBJECTIVES = ["map", "latency_ms"]


def matern(distance: float, scale: float, inverse: float) -> float:
    """Return the covariance of two numbers by the formula of Rasmussen and Williams (4.17)."""
    root = math.sqrt(5 * inverse) * distance
    return scale * (1 + root + root**2 / 3) * math.exp(-root)


def test_two_observations_of_unequal_noise_give_the_mean_that_is_computed_by_hand() -> None:
    inverse, scale, shared = 4.0, 1.5, 0.1
    noise, y = np.array([0.0, 2.0]), np.array([1.0, -1.0])
    process = conditioned(np.array([[0.2], [0.6]]), y, np.log([inverse, scale, shared]), noise)
    a, b = scale + shared + JITTER, scale + shared + JITTER + 2.0
    c, one, two = (matern(d, scale, inverse) for d in (0.4, 0.3, 0.1))
    determinant = a * b - c * c
    weights = (b * y[0] - c * y[1]) / determinant, (a * y[1] - c * y[0]) / determinant
    explained = (b * one * one - 2 * c * one * two + a * two * two) / determinant
    mean, deviation = process.predict(np.array([[0.5]]))
    assert mean[0] == pytest.approx(one * weights[0] + two * weights[1], abs=1e-9)
    assert deviation[0] == pytest.approx(math.sqrt(scale - explained), abs=1e-9)
    even, _ = conditioned(process.x, y, process.parameters, np.zeros(2)).predict(np.array([[0.5]]))
    assert mean[0] > even[0]  # the noisy observation of -1 counts less


def test_the_fit_is_the_most_probable_one_with_the_noise_of_each_observation() -> None:
    random = np.random.default_rng(0)
    x, noise = random.random((30, 1)), np.where(np.arange(30) % 2, 0.001, 1.5)
    y = np.sin(6 * x[:, 0]) + random.normal(0, np.sqrt(noise))
    process = fitted(x, y, 1, iterations=200, noise=noise)

    def posterior(parameters: Floats) -> float:
        inverse, scale, shared = np.exp(parameters)
        covariance = [[matern(abs(a - b), scale, inverse) for a in x[:, 0]] for b in x[:, 0]]
        likelihood = multivariate_normal.logpdf(y, cov=np.array(covariance) + np.diag(noise + shared + JITTER))
        middle, spread = np.array([-2 * LENGTH, SCALE[0], NOISE[0]]), np.array([2 * math.sqrt(3), SCALE[1], NOISE[1]])
        return float(likelihood - np.sum(((parameters - middle) / spread) ** 2) / 2)

    best = posterior(process.parameters)
    for place in range(3):
        for change in (-0.1, 0.1):
            assert posterior(process.parameters + change * np.eye(3)[place]) < best
    errors = process.predict(x)[0] - np.sin(6 * x[:, 0])
    assert np.abs(errors).mean() < 0.5 * np.abs(fitted(x, y, 1).predict(x)[0] - np.sin(6 * x[:, 0])).mean()


def test_the_deviation_of_a_metric_is_that_of_its_interval() -> None:
    metrics = {"latency_ms": 4.0, "latency_ms_low": 3.8, "latency_ms_high": 4.2, "map": 0.5, "size_mib": 3.0}
    metrics |= {"map_delta": -0.01, "map_delta_low": -0.03, "map_delta_high": 0.01}
    assert deviation_of(metrics, "latency_ms") == pytest.approx(0.2 / 1.96)
    assert deviation_of(metrics, "map") == deviation_of(metrics, "map_delta_low") == pytest.approx(0.02 / 1.96)
    assert deviation_of(metrics, "size_mib") is None
    assert measured(metrics, ["map", "size_mib"], ["map_delta_low"]).deviations[1] == 0


def test_an_expected_value_is_known_if_its_interval_is_or_if_it_is_a_latency() -> None:
    seen = expected({"map": 0.4, "latency_ms": 5.0}, OBJECTIVES, OBJECTIVES)
    assert seen.values == (None, 5.0)
    assert seen.deviations == pytest.approx((0.0, 0.5 / 1.96))
    assert seen.limits == {"latency_ms": pytest.approx(0.5 / 1.96)}
    rung = expected({"map": 0.4, "map_low": 0.3, "map_high": 0.5, "latency_ms": 5.0}, OBJECTIVES, [])
    assert rung.values == (0.4, 5.0)
    assert rung.deviations[0] == pytest.approx(0.1 / 1.96)


class Recorded:
    """Processes that keep what they were fitted to."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.points = ConditionalPoints(SPACE, self.random)
        self.targets: dict[str, Modelled] = {}

    def process(self, name: str, x: Floats, target: Modelled) -> GaussianProcess:
        """Keep and fit."""
        self.targets[name] = target
        return fitted(x[target.rows], target.y, 2, iterations=5, noise=target.noise)


def trial(
    ratio: float, values: tuple[float, float] | None, observed: Any = None, *, state: TrialState | None = None
) -> FrozenTrial:
    """Return a trial of a study."""
    kinds = {
        "input_size": optuna.distributions.CategoricalDistribution([64, 96, 128]),
        RATIO: optuna.distributions.FloatDistribution(0.0, 0.8),
    }
    return optuna.trial.create_trial(
        state=state or (TrialState.COMPLETE if values else TrialState.FAIL),
        params={"input_size": 64, RATIO: ratio},
        distributions=kinds,  # type: ignore[arg-type]
        values=values,
        user_attrs={OBSERVED: observed.tree()} if observed else {},
    )


def test_known_noise_reaches_the_processes_on_their_scale() -> None:
    rows = [
        trial(0.1 * place, (0.5 - 0.1 * place, 2.0**place), measured(metrics, OBJECTIVES, []))
        for place, metrics in enumerate(
            {"map": 0.5 - 0.1 * place, "map_low": 0.4, "map_high": 0.4 + 0.0392 * place, "latency_ms": 2.0**place,
             "latency_ms_low": 2.0**place * 0.99, "latency_ms_high": 2.0**place * 1.01}
            for place in range(4)
        )
    ]  # fmt: skip
    processes = Recorded()
    ConditionalModel(processes, DIRECTIONS, Results.of(rows))
    scale = np.std([0.5, 0.4, 0.3, 0.2])
    assert processes.targets["objective 0"].noise == pytest.approx((0.01 * np.arange(4) / scale) ** 2)
    logs = np.std(np.log([1.0, 2.0, 4.0, 8.0]))
    assert processes.targets["objective 1"].noise == pytest.approx([(0.01 / 1.96 / logs) ** 2] * 4)


def test_of_a_stopped_trial_the_known_objectives_are_modelled_and_it_did_not_fail() -> None:
    stopped = expected({"latency_ms": 9.0}, OBJECTIVES, [])
    at_rung = expected({"map": 0.3, "map_low": 0.2, "map_high": 0.4, "latency_ms": 3.0}, OBJECTIVES, [])
    rows = [
        trial(0.0, (0.5, 8.0)),
        trial(0.2, (0.4, 6.0)),
        trial(0.1, None, stopped),
        trial(0.3, (0.3, 3.0), at_rung),
        trial(0.5, None, at_rung, state=TrialState.RUNNING),
        trial(0.6, None, NOTHING),
        trial(0.7, None),
    ]
    processes = Recorded()
    model = ConditionalModel(processes, DIRECTIONS, Results.of(rows))
    ratios = [point[RATIO] for point in model.known]
    targets = {name: sorted(ratios[row] for row in target.rows) for name, target in processes.targets.items()}
    assert targets == {
        "objective 0": [0.0, 0.2, 0.3, 0.5],
        "objective 1": [0.0, 0.1, 0.2, 0.3, 0.5],
        "constraint failed": [0.0, 0.2, 0.7],
    }
    assert {point[RATIO] for point in model.front} <= {0.0, 0.2}  # of measured trials alone


def study_with(tmp_path: Path, violations: Any) -> tuple[Study, Proposal]:
    """Return a study and its first proposal from the space."""
    settings = StudySettings(
        space=SPACE,
        objectives={"map": "maximize", "latency_ms": "minimize"},
        violations=violations,
        sampler=SAMPLERS.load("conditional")(),
        seed=0,
        normal=lambda raw: raw,
        fixed=[({"runtime": "eager"}, "baseline")],
    )
    study = Study(StudyDatabase(tmp_path / "study.db", "s"), settings, ())
    eager = study.propose()
    assert eager is not None
    study.tell(Record.complete(0, eager.recipe, {}, "baseline", **result({"map": 0.5, "latency_ms": 9.0})))
    proposal = study.propose()
    assert proposal is not None
    return study, proposal


def result(metrics: Mapping[str, float]) -> dict[str, Any]:
    """Return the fields of a complete record."""
    return {"metrics": dict(metrics), "reasons": {}, "notes": (), "artefact": None, "started": 0.0}


def last(study: Study) -> FrozenTrial:
    """Return the last trial of a study."""
    return study._study.get_trials(deepcopy=False)[-1]


def test_the_study_passes_the_latency_of_a_trial_that_was_stopped_by_its_structure(tmp_path: Path) -> None:
    def violations(record: Record) -> dict[str, float]:
        return {"map": 0.45 - record.metrics.get("map", -math.inf), "latency_ms": record.metrics["latency_ms"] - 4}

    study, proposal = study_with(tmp_path, violations)
    known = {f"{EXPECTED}latency_ms": 6.0}
    study.tell(
        Record.stopped(
            proposal.number, proposal.recipe, {}, "sampled", "slow", stage="structure", metrics=known, facts={}
        )
    )
    frozen = last(study)
    assert frozen.state == TrialState.FAIL  # so for Optuna's own samplers it is left out
    assert frozen.user_attrs[OBSERVED]["values"] == [None, 6.0]
    assert frozen.constraints == {"latency_ms": 2.0}
    study.close()


def test_the_study_passes_what_is_expected_of_a_paused_trial_and_what_came_of_it(tmp_path: Path) -> None:
    study, proposal = study_with(tmp_path, lambda _: {})
    study.expect(proposal.number, {"map": 0.4, "map_low": 0.35, "map_high": 0.45, "latency_ms": 6.0})
    assert last(study).state == TrialState.RUNNING
    assert last(study).user_attrs[OBSERVED]["values"] == [0.4, 6.0]
    assert Results.of([last(study)]).partial == [last(study)]
    study.tell(
        Record.complete(proposal.number, proposal.recipe, {}, "sampled", **result({"map": 0.42, "latency_ms": 6.1}))
    )
    assert Results.of([last(study)]).complete == [last(study)]
    assert last(study).user_attrs[OBSERVED]["values"] == [0.42, 6.1]
    study.close()


@pytest.mark.parametrize(
    ("name", "fields", "trials"),
    [("conditional", {}, 20), ("gp", {}, 20), ("tpe", {}, 60), ("nsga2", {"population": 8}, 80)],
)
def test_every_sampler_that_learns_keeps_constraints(name: str, fields: dict[str, Any], trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def allowed(limit: float) -> float:
        """Return which share of the last trials keeps a limit of 0.3 or is near it; the best values lie beyond it."""
        study = optuna.create_study(
            directions=["maximize", "minimize"], sampler=SAMPLERS.load(name)(**fields).build_for(SPACE, 0)
        )
        for _ in range(trials):
            asked = study.ask()
            SPACE.sample(OptunaChooser(asked))
            ratio = asked.params[RATIO]
            asked.set_constraint("limit", ratio - limit)
            study.tell(asked, [ratio, 1.0 - ratio])
        return float(np.mean([one.params[RATIO] <= 0.32 for one in study.trials[trials // 2 :]]))

    assert allowed(0.3) > allowed(0.8) + 0.25


def test_with_many_trials_processes_are_fitted_anew_in_few_proposals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.search import conditional_sampler as module

    steps: list[int] = []

    def counted(*args: Any, **more: Any) -> GaussianProcess:
        steps.append(args[4])
        return fitted(*args, **more)

    monkeypatch.setattr(module, "fitted", counted)
    study = optuna.create_study(
        directions=["maximize", "minimize"], sampler=SAMPLERS.load("conditional")().build_for(SPACE, 0)
    )
    random = np.random.default_rng(0)
    study.add_trials([trial(ratio, (ratio, 1.0 - ratio)) for ratio in random.random(2 * module.OFTEN) * 0.8])
    for _ in range(2 * module.RARE):
        asked = study.ask()
        SPACE.sample(OptunaChooser(asked))
        study.tell(asked, [asked.params[RATIO], 1.0 - asked.params[RATIO]])
    assert len(steps) == 2 * 2 * module.RARE  # two objectives
    assert sum(step > 0 for step in steps) == 2 * 2
    assert max(steps) <= module.FEW_STEPS
