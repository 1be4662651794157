"""Recorded tables of trials and the replay of search methods on them, with invented figures."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from paretune.config.plan import checked_space
from paretune.config.recipe import Recipe
from paretune.core.yaml_document import read_yaml
from paretune.search.space import Space

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import search_replay
import search_rows
from search_meters import Epochs
from search_methods import methods
from search_recorder import SOURCES, part_of, plan_of

NETWORKS = 12


@pytest.fixture(name="space", scope="module")
def _space() -> Space:
    return checked_space(read_yaml(search_rows.SPACE))


@pytest.fixture(name="table", scope="module")
def _table(space: Space) -> search_rows.Table:
    """Return a table of invented figures, in which network 5 failed and so did every second one on bf16."""
    networks, rows = {}, []
    for number in range(NETWORKS):
        params = search_rows.network_params(space, number)
        failure = "RuntimeError: invented" if number == 5 else None
        networks[number] = search_rows.Network(number, params, {"prune": 1.0, "finetune": 9.0}, {}, failure)
        for place, deploy in enumerate(search_rows.deployments(space) if failure is None else []):
            seconds, broken = {"evaluate": 1.0}, number % 2 == 1 and "bf16" in search_rows.label_of(deploy)
            metrics = {} if broken else {"map": 0.5 - 0.01 * (number % 7), "network_cpu_ms": 4.0 + place - number / 9}
            rows.append(search_rows.Row(number, 0, deploy, seconds, metrics, "invented" if broken else None))
    return search_rows.Table(networks, rows, {})


@pytest.fixture(name="pool", scope="module")
def _pool(table: search_rows.Table, space: Space) -> search_replay.Pool:
    return search_replay.pool_of(table, space)


def test_every_network_with_every_deployment_is_a_recipe(space: Space) -> None:
    for number in range(40):
        params = search_rows.network_params(space, number)
        assert params == search_rows.network_params(space, number)
        assert space.point_problems(params) == []
        for deploy in search_rows.deployments(space):
            Recipe.model_validate(search_rows.recipe_of(space, {**params, **deploy}))
    labels = [search_rows.label_of(deploy) for deploy in search_rows.deployments(space)]
    assert len(set(labels)) == len(labels) == 18


def test_a_part_of_a_recipe_has_the_steps_of_the_part_alone(space: Space) -> None:
    params = {**search_rows.network_params(space, 7), "deploy": "onnxruntime"}
    whole = Recipe.model_validate(search_rows.recipe_of(space, params))
    assert [step.name for step in whole.chain] == ["prune", "finetune", "export"]
    assert [step.name for step in part_of(whole, whole.steps[1:]).chain] == ["finetune", "export"]
    assert [step.name for step in part_of(whole, ()).chain] == ["export"]


def test_a_table_is_read_as_it_was_written_and_a_torn_line_is_replaced(
    table: search_rows.Table, tmp_path: Path
) -> None:
    file = tmp_path / "some.jsonl"
    search_rows.append(file, table.networks[0], *table.rows[:5])
    with file.open("a") as opened:
        opened.write('{"network": 1, "par')
    assert search_rows.read_table(file).rows == table.rows[:5]
    search_rows.append(file, table.networks[5])
    again = search_rows.read_table(file)
    assert again.networks == {0: table.networks[0], 5: table.networks[5]}
    assert again.rows == table.rows[:5]


def test_the_state_of_each_rung_is_kept_while_the_training_goes_on(tmp_path: Path) -> None:
    epochs, folder, earlier = Epochs(tmp_path), tmp_path / "finetune-1-2", tmp_path / "finetune-0-1"
    for place in (earlier, folder):
        place.mkdir()
    (earlier / "state.pt").write_text("of a round of pruning")
    epochs.progress("prune")
    epochs.progress("finetune")
    for number in range(1, 10):
        epochs.progress(f"finetune epoch {number}/9: loss 1.0 = box 1.0, lr 0.1, 10 images/s")
        (folder / "state.pt").write_text(f"after {number}")
    assert [epochs.file(rung).read_text() for rung in (1, 3)] == ["after 1", "after 3"]
    assert list(epochs.seconds) == ["1", "3", "9"]


def test_latencies_are_on_one_scale(table: search_rows.Table, tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    search_rows.append(file, table.networks[0])
    for network, reference in ((0, 2.0), (1, 4.0), (2, 3.0)):
        line = {"network": network, "deploy": "onnxruntime", "ratio": 0.5, "reference_ms": reference}
        search_rows.append(search_rows.latency_file(file), line)
    latency = search_rows.read_table(file).latency
    assert [latency[network, "onnxruntime"]["latency_ms"] for network in range(3)] == [1.5, 1.5, 1.5]


def test_a_pool_holds_failures_with_their_cost(pool: search_replay.Pool) -> None:
    assert len(pool.answers) == NETWORKS * 18
    failed = [answer for answer in pool.answers if answer.map is None]
    assert len(failed) == 18 + 5 * 2
    assert {answer.seconds for answer in failed} == {10.0, 11.0}
    assert pool.hypervolume(failed) == 0
    assert not pool.measured


@pytest.mark.parametrize("name", ["random", "tpe, group", "nsga2", "conditional", "branches"])
def test_a_replay_takes_each_row_once_and_ends_with_the_whole_hypervolume(pool: search_replay.Pool, name: str) -> None:
    small = search_replay.Pool(pool.space, pool.answers[: 2 * 18], pool.base, pool.measured)
    run = search_replay.replay(small, methods()[name], 0, 1000)
    assert len(run.hypervolume) == 2 * 18
    assert run.hypervolume == sorted(run.hypervolume)
    assert run.hypervolume[-1] == pytest.approx(1.0)
    assert run.seconds[-1] == pytest.approx(sum(answer.seconds for answer in small.answers))


def test_a_proposal_gets_its_own_deployment(pool: search_replay.Pool) -> None:
    import optuna

    study = optuna.create_study(
        directions=["maximize", "minimize"],
        sampler=(sampler := search_replay.Replayed(optuna.samplers.RandomSampler(0), pool)),
    )
    labels = []
    for _ in range(40):
        pool.space.sample(search_replay.OptunaChooser(study.ask()))
        labels.append(pool.answers[sampler.rows[len(labels)]].params["deploy"])
    assert len(set(labels)) == 7
    assert len(set(sampler.rows.values())) == 40
    assert np.bincount([row // 18 for row in sampler.rows.values()], minlength=NETWORKS).max() < 40


@pytest.mark.parametrize("name", SOURCES)
def test_recorded_rows_are_points_of_the_space_of_their_table(name: str) -> None:
    table, space = search_rows.read_table(search_rows.TABLES / f"{name}.jsonl"), plan_of(name).space
    for number, network in table.networks.items():
        assert network.params == search_rows.network_params(space, number)
    for row in table.rows:
        assert space.point_problems(row.deploy) == []
        assert (row.failure is None) == ("map" in row.metrics)
    if table.networks:
        assert search_replay.pool_of(table, space).best > 0
