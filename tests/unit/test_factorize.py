"""Low-rank factorization: the best approximation of its rank, cheaper or left alone, a network as good as any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paretune.compression.factorize.decompose import (
    LayerUse,
    operations,
    rank_of_energy,
    spectrum,
    svd_chain,
    tucker_chain,
)
from paretune.compression.factorize.step import Factorize
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.layer_chain import Chain
from paretune.networks.network_files import count
from tests_support_compression import SIZE, MixedDetector, context, model, outputs, same_state, state

DENSE = Yolo(width=0.125, depthwise=False)
LAYERS = {
    "3x3": lambda: nn.Conv2d(12, 20, 3, 1, 1),
    "strided": lambda: nn.Conv2d(12, 20, 3, (2, 1), (1, 0), bias=False),
    "dilated": lambda: nn.Conv2d(20, 12, 3, padding=2, dilation=2),
    "oblong": lambda: nn.Conv2d(12, 20, (1, 5), padding=(0, 2)),
    "1x1": lambda: nn.Conv2d(20, 12, 1),
    "wide": lambda: nn.Linear(30, 12),
    "tall": lambda: nn.Linear(12, 30, bias=False),
}


def layer_and_input(kind: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    shape = (5, layer.in_features) if isinstance(layer, nn.Linear) else (2, layer.in_channels, 9, 10)
    return layer, torch.randn(shape)


def whole(chain: Chain) -> np.ndarray:
    """The weights of one layer that computes what a chain of two does, (O, I, h, w) or (O, I)."""
    first, second = (part.weight.detach().double().numpy() for part in chain)
    return np.tensordot(second.reshape(second.shape[:2]), first, axes=(1, 0))


def truncated(weight: torch.Tensor, rank: int) -> np.ndarray:
    """The best approximation of a rank (Eckart and Young, 1936), by numpy's own decomposition."""
    matrix = weight.detach().double().numpy().reshape(len(weight), -1)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * s[:rank] @ v[:rank]).reshape(weight.shape)


def near(wanted: torch.Tensor, got: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((wanted - got).abs().max() <= tolerance * wanted.abs().max())


@pytest.mark.parametrize("kind", LAYERS)
def test_full_rank_is_the_layer_itself(kind: str) -> None:
    layer, given = layer_and_input(kind)
    with torch.no_grad():
        assert near(layer(given), svd_chain(layer, min(layer.weight.flatten(1).shape))(given))
        if layer.weight.ndim == 4:
            chain = tucker_chain(layer, layer.out_channels, layer.in_channels)
            assert [part.weight.shape[2:] for part in chain] == [(1, 1), layer.kernel_size, (1, 1)]
            assert near(layer(given), chain(given))


@pytest.mark.parametrize("rank", [1, 4, 11])
@pytest.mark.parametrize("kind", LAYERS)
def test_svd_is_the_best_approximation_of_its_rank(kind: str, rank: int) -> None:
    layer, given = layer_and_input(kind)
    chain = svd_chain(layer, rank)
    np.testing.assert_allclose(whole(chain), truncated(layer.weight, rank), atol=1e-6)
    with torch.no_grad():
        same = LAYERS[kind]()
        same.load_state_dict({**layer.state_dict(), "weight": torch.from_numpy(truncated(layer.weight, rank)).float()})
        assert near(same(given), chain(given))


def test_both_layers_of_an_svd_are_of_one_size() -> None:
    """Columns of the one and rows of the other have the same norms: the square roots of the singular values."""
    layer, _ = layer_and_input("3x3")
    first, second = svd_chain(layer, 6)
    values = np.linalg.svd(layer.weight.detach().flatten(1).numpy(), compute_uv=False)[:6] ** 0.5
    np.testing.assert_allclose(first.weight.detach().flatten(1).norm(dim=1), values, rtol=1e-4)
    np.testing.assert_allclose(second.weight.detach().flatten(1).norm(dim=0), values, rtol=1e-4)


@pytest.mark.parametrize("ranks", [(4, 3), (20, 6), (1, 1)])
def test_tucker_is_at_least_as_near_as_two_truncated_decompositions(ranks: tuple[int, int]) -> None:
    """The truncated HOSVD by numpy is the worst it may be; no side can lose less than its own tail."""
    layer, _ = layer_and_input("3x3")
    outer, inner = ranks
    weight = layer.weight.detach().double().numpy()
    sides = weight.reshape(20, -1), weight.swapaxes(0, 1).reshape(12, -1)
    (u, s, _), (v, t, _) = (np.linalg.svd(side, full_matrices=False) for side in sides)
    by_hand = np.einsum("oihw,or,pr,is,js->pjhw", weight, u[:, :outer], u[:, :outer], v[:, :inner], v[:, :inner])
    narrow, core, wide = (part.weight.detach().double().numpy() for part in tucker_chain(layer, outer, inner))
    made = np.einsum("si,rshw,or->oihw", narrow[:, :, 0, 0], core, wide[:, :, 0, 0])
    error, worst = (np.square(weight - found).sum() for found in (made, by_hand))
    best = max(np.square(s[outer:]).sum(), np.square(t[inner:]).sum())
    assert best - 1e-9 <= error <= worst + 1e-9


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.63, 1), (0.65, 2), (0.999, 3), (1.0, 4)])
def test_rank_of_energy(energy: float, rank: int) -> None:
    squares, _ = spectrum(torch.diag(torch.tensor([2.0, 8, 4, 0.01])))
    assert squares.tolist() == pytest.approx([64, 16, 4, 1e-4])
    assert rank_of_energy(torch.tensor([64.0, 32, 3.99, 0.01]).double(), energy) == rank
    assert rank_of_energy(torch.zeros(4), energy) == 1


def test_operations_by_arithmetic() -> None:
    layer = nn.Conv2d(12, 20, 3, 2, 1)
    use = LayerUse(given=80, made=20)
    assert operations(layer, use) == 20 * 12 * 20 * 9
    assert operations(svd_chain(layer, 5), use) == 20 * (12 * 5 * 9 + 5 * 20)
    assert operations(tucker_chain(layer, 7, 5), use) == 80 * 12 * 5 + 20 * (5 * 7 * 9 + 7 * 20)


def chains(network: nn.Module) -> dict[str, Chain]:
    return {name: module for name, module in network.named_modules() if isinstance(module, Chain)}


@pytest.mark.parametrize("method", ["svd", "tucker"])
def test_what_is_left_out_and_what_falls(method: str, tmp_path: Path) -> None:
    before = model()
    after = Factorize(method=method, rank=0.25).apply(before, context(tmp_path))
    found = chains(after.network)
    assert set(found) == {"same.0", "plain.0"}  # stem: 3 inputs; deep: depthwise; box, score: predictors
    assert len(found["same.0"]) == (2 if method == "svd" else 3)
    assert len(found["plain.0"]) == 2
    assert after.notes == ("factorize: 2 layers in low rank; 0 would not get cheaper at rank 0.25",)
    assert (after.params, after.flops) == count(after.network, SIZE)
    assert after.params < before.params
    assert after.flops < before.flops
    assert found["same.0"][-1].weight.requires_grad


def test_a_layer_that_would_not_get_cheaper_stays(tmp_path: Path) -> None:
    """plain, 64 to 48 channels at 1x1, breaks even at rank 64 · 48 / (64 + 48) = 27.4."""
    around = context(tmp_path)
    half = Factorize(rank=0.5, method="svd", gain=0.0).apply(model(), around)  # rank 24
    more = Factorize(rank=0.6, method="svd", gain=0.0).apply(model(), around)  # rank 29, rounded up to 32
    less = Factorize(rank=0.5, method="svd", gain=0.2).apply(model(), around)  # 24 · 112 / 3072 = 0.875
    assert "plain.0" in chains(half.network)
    assert "plain.0" not in chains(more.network)
    assert "plain.0" not in chains(less.network)
    assert more.notes == ("factorize: 1 layers in low rank; 1 would not get cheaper at rank 0.6",)


def test_energy_decides_the_rank_of_each_layer(tmp_path: Path) -> None:
    before = model()
    with torch.no_grad():
        before.network.same[0].weight.copy_(torch.from_numpy(truncated(before.network.same[0].weight, 3)))
    after = Factorize(method="svd", energy=0.999999, round_to=1).apply(before, context(tmp_path))
    found = chains(after.network)
    assert set(found) == {"same.0"}
    assert found["same.0"][0].out_channels == 3
    assert all(near(a, b) for a, b in zip(outputs(before.network), outputs(after.network), strict=True))


def test_nothing_cheaper_is_noted_and_twice_is_once(tmp_path: Path) -> None:
    around = context(tmp_path)
    same = Factorize(rank=1.0).apply(model(), around)
    assert same.notes == ("factorize changed nothing: no layer gets 10% cheaper at rank 1",)
    assert same_state(state(same.network), state(model().network))
    once = Factorize(rank=0.25).apply(model(), around)
    twice = Factorize(rank=0.25).apply(once, around)
    assert same_state(state(once.network), state(twice.network))
    assert "changed nothing" in twice.notes[-1]


def test_subclasses_groups_and_odd_paddings_stay(tmp_path: Path) -> None:
    class Odd(nn.Conv2d):
        pass

    before = model()
    before.network.same[0] = Odd(32, 32, 3, padding=1)
    before.network.plain[0] = nn.Conv2d(64, 48, 3, padding="same", padding_mode="reflect")
    after = Factorize(rank=0.25).apply(before, context(tmp_path))
    assert chains(after.network) == {}


def test_a_detector_without_norms_too(tmp_path: Path) -> None:
    bare = MixedDetector(norm="none")
    after = Factorize(rank=0.25).apply(model(bare), context(tmp_path, bare))
    assert len(chains(after.network)) == 2
