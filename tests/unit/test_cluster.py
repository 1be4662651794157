"""Weight clustering: the fixed point of k-means, near the best there is, in torch and in the exported file alike."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paretune.compression.cluster import Cluster, cluster_values
from paretune.compression.finetune import Finetune
from paretune.compression.sparsify import Sparsify
from tests_support_compression import context, model, outputs, same_state, state

PREDICTORS = {"box", "score"}


def values(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, count).astype(np.float32)


def least_error(numbers: np.ndarray, count: int) -> float:
    """The smallest squared error that so many clusters can have: every way to cut the sorted numbers is tried."""
    found = np.sort(numbers.astype(np.float64))
    cuts = itertools.combinations(range(1, len(found)), count - 1)
    return min(sum(np.square(part - part.mean()).sum() for part in np.split(found, cut)) for cut in cuts)


def error(numbers: np.ndarray, made: np.ndarray) -> float:
    return float(np.square(numbers.astype(np.float64) - made).sum())


@pytest.mark.parametrize("count", [2, 4, 16, 64])
def test_every_value_is_the_mean_of_what_is_nearest_to_it(count: int) -> None:
    numbers = values(3000)
    made = cluster_values(numbers.reshape(30, 4, 5, 5), count).ravel()
    centres = np.unique(made)
    assert made.dtype == np.float32
    assert len(centres) == count
    assert np.abs(numbers - made).max() <= np.abs(numbers[:, None] - centres).min(axis=1).max() + 1e-6
    for centre in centres:
        assert numbers[made == centre].mean(dtype=np.float64) == pytest.approx(centre, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [2, 4])
def test_is_near_the_best_there_is(count: int, seed: int) -> None:
    numbers = values(16, seed)
    assert error(numbers, cluster_values(numbers, count)) <= 1.5 * least_error(numbers, count)


def test_error_falls_with_the_bits_as_that_of_the_best_does() -> None:
    """Of a normal distribution 0.1175 is the least error of 4 values (Max, 1960), √3 π / 2 / count² of many.

    The second is by Panter and Dite, 1951.
    """
    numbers = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    errors = {count: error(numbers, cluster_values(numbers, count)) / len(numbers) for count in (4, 64, 256)}
    assert errors[4] == pytest.approx(0.1175, rel=0.02)
    assert all(errors[count] <= 1.05 * 3**0.5 * np.pi / 2 / count**2 for count in (64, 256))


def test_zeros_stay_zeros_and_count() -> None:
    numbers = np.concatenate([values(500), np.zeros(200, np.float32)])
    made = cluster_values(numbers, 4)
    assert (made[500:] == 0).all()
    assert (made[:500] != 0).all()
    assert len(np.unique(made)) == 4


@pytest.mark.parametrize("numbers", [[1.0], [0, 0, 0], [3, 3, -1, 0.5], [2, 2, 2, 2, 2]])
def test_few_values_stay_as_they_are(numbers: list[float]) -> None:
    given = np.array(numbers, np.float32)
    assert (cluster_values(given, 4) == given).all()


def test_one_value_far_away_does_not_take_all_clusters() -> None:
    """From even steps alone, nearly every cluster would be empty."""
    numbers = np.append(values(1000), np.float32(1e4))
    assert error(numbers[:-1], cluster_values(numbers, 16)[:-1]) < 0.05 * np.square(numbers[:-1]).sum()


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {n: m.weight.detach() for n, m in network.named_modules() if isinstance(m, nn.Conv2d)}


@pytest.mark.parametrize("keep", [True, False])
def test_every_layer_but_the_predictors_has_few_weights(keep: bool, tmp_path: Path) -> None:
    before = model()
    after = Cluster(bits=3, keep_outputs=keep).apply(before, context(tmp_path))
    layers = 6 - 2 * keep
    said = f"cluster: {layers} layers of 3 bits gain size when coded (coded_mib), no latency"
    assert after.notes == (said,)
    for name, weight in weights(after.network).items():
        kept = keep and name in PREDICTORS
        assert torch.equal(weight, weights(before.network)[name]) == kept
        assert (len(weight.unique()) <= 8) == (not kept)
    others = {name: tensor for name, tensor in state(after.network).items() if tensor.ndim < 4}
    assert same_state(others, {name: tensor for name, tensor in state(before.network).items() if tensor.ndim < 4})
    assert (after.params, after.flops) == (before.params, before.flops)


def test_many_bits_change_the_outputs_little(tmp_path: Path) -> None:
    before = model()
    errors = []
    for bits in (2, 5, 8):
        after = Cluster(bits=bits).apply(before, context(tmp_path))
        pairs = zip(outputs(before.network), outputs(after.network), strict=True)
        errors.append(max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_twice_is_once_and_says_so(tmp_path: Path) -> None:
    once = Cluster(bits=4).apply(model(), context(tmp_path))
    twice = Cluster(bits=4).apply(once, context(tmp_path))
    assert twice.notes[-1] == "cluster changed nothing: no layer has more than 16 different weights"
    assert same_state(state(once.network), state(twice.network))


def test_zeros_of_a_sparse_network_stay(tmp_path: Path) -> None:
    sparse = Sparsify(sparsity=0.6).apply(model(), context(tmp_path))
    after = Cluster(bits=2).apply(sparse, context(tmp_path))
    for name, weight in weights(after.network).items():
        assert torch.equal(weight == 0, weights(sparse.network)[name] == 0)


def test_finetuning_takes_clusters_apart_and_says_so(tmp_path: Path) -> None:
    around = context(tmp_path)
    tuned = Finetune(epochs=1).apply(Cluster(bits=2).apply(model(), around), around)
    assert tuned.notes[-1] == "finetune takes the clusters apart again: cluster should stand last"
    assert len(weights(tuned.network)["stem.0"].unique()) > 4
