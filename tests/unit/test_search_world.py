"""Whole searches and methods of other packages, replayed on an invented table."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from paretune.config.plan import checked_space
from paretune.core.yaml_document import read_yaml
from paretune.search.space import Space

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import search_replay
import search_rows
from search import compute_until, gains, shares, sign_test
from search_methods import methods
from search_peers import PYTHON, Peer, PeerMissing, missing, parameters, replay_peer
from search_world import Ingredients, whole_search

NETWORKS = 14
TRAINING = 30.0


@pytest.fixture(name="space", scope="module")
def _space() -> Space:
    return checked_space(read_yaml(search_rows.SPACE))


@pytest.fixture(name="pool", scope="module")
def _pool(space: Space) -> search_replay.Pool:
    """Return the pool of an invented table, in which a network is as good at its rungs as it is at the end."""
    networks, rows = {}, []
    for number in range(NETWORKS):
        params = search_rows.network_params(space, number)
        trains = params["tuned"] in ("trained", "taught", "aware")
        quality = 0.5 - 0.01 * (number % 7)
        seconds = {"prune": 1.0, **({"finetune": TRAINING} if trains else {})}
        epochs = {"1": 3.0, "3": 10.0, "9": TRAINING} if trains else {}
        networks[number] = search_rows.Network(number, params, seconds, epochs)
        for rung in search_rows.RUNGS if trains else (0,):
            for place, deploy in enumerate(search_rows.deployments(space)):
                metrics = {"map": quality, "network_cpu_ms": 4.0 + place - number / 9}
                rows.append(search_rows.Row(number, rung, deploy, {"export": 2.0, "evaluate": 1.0}, metrics))
    return search_replay.pool_of(search_rows.Table(networks, rows, {}), space)


def run(pool: search_replay.Pool, ingredients: Ingredients, trials: int = 40) -> search_replay.Replay:
    """Replay a search that draws at random."""
    return whole_search(pool, ingredients, methods()["random"], 0, trials)


PLAIN = Ingredients("random", store=False, cheap_first=False, siblings=False, halving=False, first=False)


def test_without_ingredients_every_trial_costs_what_it_took(pool: search_replay.Pool) -> None:
    plain = run(pool, PLAIN)
    costs = {round(b - a, 6) for a, b in zip([0.0, *plain.seconds], plain.seconds, strict=False)}
    assert costs <= {1.0 + 3.0, 1.0 + TRAINING + 3.0}  # baselines have a network of one step too
    assert len(plain.seconds) == 40


def test_a_stored_network_is_paid_once(pool: search_replay.Pool) -> None:
    from dataclasses import replace

    stored, plain = run(pool, replace(PLAIN, store=True)), run(pool, PLAIN)
    assert stored.hypervolume == plain.hypervolume  # the same trials
    assert stored.seconds[-1] <= NETWORKS * (TRAINING + 1.0 + 2.0) + 40
    assert stored.seconds[-1] < plain.seconds[-1] / 1.5


def test_halving_pays_less_for_trainings_and_finishes_the_hopeful(pool: search_replay.Pool) -> None:
    from dataclasses import replace

    halved, plain = run(pool, replace(PLAIN, halving=True), 60), run(pool, PLAIN, 60)
    assert halved.seconds[-1] < plain.seconds[-1]
    assert halved.hypervolume[-1] >= plain.hypervolume[-1] - 0.02


def test_the_whole_search_ends_at_its_limit(pool: search_replay.Pool) -> None:
    limited = whole_search(pool, Ingredients("random"), methods()["random"], 0, 40, 100.0)
    assert limited.seconds[-2] < 100 <= limited.seconds[-1]
    assert limited.hypervolume == sorted(limited.hypervolume)


def replayed(volumes: list[float], seconds: list[float]) -> search_replay.Replay:
    return search_replay.Replay(volumes, seconds, [0.0])


def test_figures_compare_each_seed_with_the_script_of_its_seed() -> None:
    ours = [replayed([0.5, 0.9], [10.0, 20.0]), replayed([0.1, 0.2], [10.0, 300.0])]
    scripts = [replayed([0.4, 0.8], [50.0, 100.0]), replayed([0.4, 0.8], [50.0, 100.0])]
    assert compute_until(ours[0], 0.9) == 20
    assert shares(ours, scripts) == [0.2, math.inf]
    assert gains(ours, scripts) == pytest.approx([0.1, -0.7])
    assert gains(ours, scripts, 0.1) == pytest.approx([0.5, 0.1])
    assert sign_test([1.0] * 9 + [-1.0]) == (9, 1, pytest.approx(22 / 1024))


PEER = """\
import json, sys
order = json.loads(sys.stdin.readline())
if order["method"] == "gone":
    print(json.dumps({"missing": "No module named gone"}), flush=True)
    raise SystemExit
print(json.dumps({"ready": True}), flush=True)
count = 0
for line in sys.stdin:
    said = json.loads(line)
    if "ask" in said:
        count += 1
        point = {one["name"]: (count + place) % one["options"] if one["options"] else 0.5
                 for place, one in enumerate(order["parameters"])}
        print(json.dumps({"point": point}), flush=True)
    else:
        print(json.dumps({"stop": count % 2 == 0 and not said["last"]}), flush=True)
"""


@pytest.fixture
def _invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer as an installed package would."""
    (tmp_path / "peer.py").write_text(PEER)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'peer.py'}\n")
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(python))


@pytest.mark.usefixtures("_invented")
def test_a_method_of_another_package_is_asked_for_points_of_the_space(pool: search_replay.Pool, space: Space) -> None:
    peer = Peer("some", space, 0, 10)
    try:
        for _ in range(5):
            assert space.point_problems(peer.ask()) == []
    finally:
        peer.close()
    replay = replay_peer(pool, "moasha", 0, 10)
    assert len(replay.seconds) == 30
    assert replay.seconds[-1] < replay_peer(pool, "smac", 0, 30).seconds[-1]  # it stops trials


@pytest.mark.usefixtures("_invented")
def test_a_package_that_is_not_installed_is_named(space: Space) -> None:
    assert missing("gone", space) == "No module named gone"
    assert missing("some", space) is None
    with pytest.raises(PeerMissing):
        Peer("gone", space, 0, 10)


def test_parameters_know_the_option_that_they_depend_on(space: Space) -> None:
    known = parameters(space)
    json.dumps(known)
    names = [one["name"] for one in known]
    assert set(names) == set(space.parameters)
    for one in known:
        if one["parent"]:
            name, option = one["parent"]
            assert names.index(name) < names.index(one["name"])
            assert option < len(space.parameters[name].options)  # type: ignore[union-attr]


def test_the_script_has_the_sampler_of_rays_optuna_search() -> None:
    from optuna.samplers import TPESampler
    from ray.tune.search.optuna import OptunaSearch

    search = OptunaSearch(space=lambda _: None, metric=["map", "latency_ms"], mode=["max", "min"], seed=0)
    sampler = search._ot_study.sampler
    assert type(sampler) is TPESampler
    assert not sampler._multivariate
    assert sampler._n_startup_trials == methods()["script"](None, 0)._n_startup_trials  # type: ignore[arg-type,attr-defined]
