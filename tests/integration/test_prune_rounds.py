"""Pruning in rounds with fine-tuning between, and sparsity learnt before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paretune.compression.prune import run as pruning_rounds
from paretune.compression.prune.dependency_groups import trace_dependency_groups
from paretune.compression.prune.group_lasso import GroupLasso, energies, train_with_group_lasso
from paretune.compression.prune.step import Prune
from paretune.compression.sparsify import Sparsify
from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.network_files import copy_network, layers
from tests_support_compression import (
    SETTINGS,
    SIZE,
    MixedDetector,
    context,
    model,
    outputs,
    same_state,
    state,
    with_channels_at_zero,
)

DENSE = Yolo(width=0.125, depthwise=False)


def width(given: Model) -> tuple[int, int]:
    """Channels of the two blocks of the mixed network."""
    return given.network.stem[0].out_channels, given.network.plain[0].out_channels


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[Model]:
    """What is fine-tuned between rounds; nothing is trained."""
    seen: list[Model] = []

    class Idle:
        def __init__(self, epochs: int) -> None:
            self.epochs = epochs

        def apply(self, given: Model, _: object) -> Model:
            seen.append(given)
            return given.noted(f"tuned for {self.epochs}")

    monkeypatch.setattr(pruning_rounds, "Finetune", Idle)
    return seen


def test_rounds_take_equal_shares_of_what_is_left_and_are_tuned_between(tuned: list[Model], tmp_path: Path) -> None:
    """An eighth left after three rounds: a half after the first, a quarter after the second."""
    dense = model()
    step = Prune(ratio=0.875, round_to=1, rounds=3, round_epochs=5)
    pruned = step.apply(dense, context(tmp_path))
    assert [width(given) for given in (dense, *tuned, pruned)] == [(32, 48), (16, 24), (8, 12), (4, 6)]
    assert pruned.notes == ("tuned for 5", "tuned for 5")
    assert pruned.history == ("prune",)


@pytest.mark.parametrize("rounds", [2, 5])
def test_many_rounds_end_where_one_does(rounds: int, tuned: list[Model], tmp_path: Path) -> None:
    """Each is a share of the first network's channels: nothing is lost by rounding on the way."""
    for ratio in (0.3, 0.5, 0.8):
        once = Prune(ratio=ratio).apply(model(), context(tmp_path))
        often = Prune(ratio=ratio, rounds=rounds, round_epochs=0).apply(model(), context(tmp_path))
        assert layers(often.network) == layers(once.network)
        assert not tuned


def test_a_round_that_removed_nothing_is_not_tuned(tuned: list[Model], tmp_path: Path) -> None:
    pruned = Prune(ratio=0.3, round_to=16, rounds=4).apply(model(), context(tmp_path))
    assert width(pruned) == (16, 32)
    assert 0 < len(tuned) < 3


@pytest.mark.parametrize("scope", ["local", "stage", "global"])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize(("ratio", "round_to"), [(0.5, 8), (0.3, 16), (0.7, 16), (0.9, 32), (0.4, 64)])
def test_channels_that_rounding_keeps_are_noted(
    ratio: float, round_to: int, rounds: int, scope: str, tuned: list[Model], tmp_path: Path
) -> None:
    """What is left is counted in the layers themselves."""
    dense = model()
    step = Prune.model_validate(
        {"ratio": ratio, "round_to": round_to, "rounds": rounds, "round_epochs": 0, "scope": scope}
    )
    pruned = step.apply(dense, context(tmp_path))
    gone = 1 - sum(width(pruned)) / sum(width(dense))
    told = [note for note in pruned.notes if "of the channels instead of" in note]
    assert bool(told) == (abs(gone - ratio) > pruning_rounds.OFF)
    assert all(f"removed {gone:.0%} of the channels instead of {ratio:.0%}" in note for note in told)


@pytest.mark.parametrize("of", ["channels", "flops"])
@pytest.mark.parametrize("scope", ["local", "global"])
def test_pruned_in_rounds_is_dense_with_channels_at_zero(
    of: str, scope: str, tuned: list[Model], tmp_path: Path
) -> None:
    dense = model()
    step = Prune.model_validate({"ratio": 0.6, "rounds": 3, "budget": of, "scope": scope, "round_to": 2})
    pruned = step.apply(dense, context(tmp_path))
    reference, removed = with_channels_at_zero(dense.network, pruned.network)
    assert removed > 0
    assert len(tuned) == 2
    for wanted, got in zip(outputs(reference), outputs(pruned.network), strict=True):
        assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()


@pytest.mark.slow
def test_a_real_fine_tuning_between_rounds(tmp_path: Path) -> None:
    dense, lines = model(), []
    before = state(dense.network)
    step = Prune(ratio=0.6, rounds=2, round_epochs=1)
    pruned = step.apply(dense, context(tmp_path, progress=lines.append))
    assert same_state(before, state(dense.network))
    assert width(pruned) == (16, 16)
    untuned = Prune(ratio=0.6, rounds=2, round_epochs=0).apply(dense, context(tmp_path))
    assert not same_state(state(pruned.network), state(untuned.network))
    assert "prune: fine-tuning after round 1 of 2" in lines
    assert pruned.history == ("prune",)
    again = step.apply(dense, context(tmp_path / "other"))
    assert same_state(state(pruned.network), state(again.network))


def test_energies_are_those_of_all_weights_of_a_channel() -> None:
    network = model().network
    with trace_dependency_groups(copy_network(network), MixedDetector(), SIZE) as coupling:
        found = {block.channels: energies(block).detach() for block in coupling.blocks}

    def rows(layer: torch.nn.Module) -> torch.Tensor:
        return layer.weight.detach().square().reshape(len(layer.weight), -1).sum(1)

    def columns(layer: torch.nn.Module) -> torch.Tensor:
        return layer.weight.detach().square().sum((0, 2, 3))

    own = [network.stem[0], network.stem[1], network.same[0], network.same[1], network.deep[0], network.deep[1]]
    first = sum(rows(layer) for layer in own) + columns(network.same[0])
    first += sum(columns(network.plain[0]).chunk(2))
    torch.testing.assert_close(found[32], first)
    second = rows(network.plain[0]) + columns(network.box) + columns(network.score)
    torch.testing.assert_close(found[48], second)


def test_the_penalty_pulls_weak_channels_sixteen_times_as_hard() -> None:
    network = model().network
    with trace_dependency_groups(network, MixedDetector(), SIZE) as coupling:
        block = next(block for block in coupling.blocks if block.channels == 48)
    energy = energies(block).detach()
    weight = network.plain[0].weight.requires_grad_()
    GroupLasso([block], 0.5)().backward()
    pull = (weight.grad / weight.detach()).flatten(1).mean(1)
    assert pull[energy.argmax()] == pytest.approx(0.5, rel=1e-4)
    assert pull[energy.argmin()] == pytest.approx(8.0, rel=1e-4)


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_sparsity_is_learnt(norm: str, tmp_path: Path) -> None:
    """Weak channels lose more of their weight than strong ones, and more than without the penalty."""
    detector = MixedDetector(norm=norm)
    dense = model(detector)
    kept, lines = state(dense.network), []

    def weakest(given: Model) -> list[torch.Tensor]:
        with trace_dependency_groups(copy_network(given.network), detector, SIZE) as coupling:
            return [energies(block).detach().sort().values for block in coupling.blocks]

    around = context(tmp_path, detector, progress=lines.append)
    made = [train_with_group_lasso(dense, around, epochs=6, weight=weight) for weight in (1e-9, 1.0)]
    assert same_state(kept, state(dense.network))
    assert lines[0].startswith("prune: sparsity epoch 1/6: loss ")
    assert "sparsity" in lines[0]
    for before, free, pulled in zip(weakest(dense), *map(weakest, made), strict=True):
        half = len(before) // 2
        assert pulled.sum() < free.sum()
        assert pulled[:half].sum() / before[:half].sum() < pulled[half:].sum() / before[half:].sum()
    frozen = [tensor for name, tensor in made[1].network.named_buffers() if norm == "frozen"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in made[1].network.named_buffers() if norm == "frozen")
    assert bool(frozen) == (norm == "frozen")


def test_learning_leaves_frozen_layers_as_they_are(tmp_path: Path) -> None:
    dense = model()
    dense.network.stem[0].weight.requires_grad_(False)
    made = train_with_group_lasso(dense, context(tmp_path), epochs=1, weight=1.0).network
    assert torch.equal(made.stem[0].weight, dense.network.stem[0].weight)
    assert not torch.equal(made.plain[0].weight, dense.network.plain[0].weight)
    assert not made.stem[0].weight.requires_grad


def test_zeros_of_sparsify_outlive_the_learning(tmp_path: Path) -> None:
    around = context(tmp_path)
    sparse = Sparsify(sparsity=0.7).apply(model(), around)
    made = train_with_group_lasso(sparse, around, epochs=1, weight=1e-3)
    for name in ("stem.0", "same.0", "plain.0"):
        before, after = (given.network.get_submodule(name).weight.detach() for given in (sparse, made))
        assert torch.equal(after == 0, before == 0)
        assert not torch.equal(after, before)


def test_sparsity_is_learnt_before_channels_go(tmp_path: Path) -> None:
    dense, around = model(), context(tmp_path)
    learnt = train_with_group_lasso(dense, around, epochs=1, weight=1e-3)
    pruned = Prune(ratio=0.5, learn_sparsity=1).apply(dense, around)
    assert same_state(state(pruned.network), state(Prune(ratio=0.5).apply(learnt, around).network))
    none = Prune(ratio=0.01, learn_sparsity=1).apply(dense, around)
    assert none.notes == ("prune removed no channels: ratio 0.01 of the channels with round_to 8",)


def test_sparsity_with_several_workers_is_refused(tmp_path: Path) -> None:
    around = context(tmp_path, training=SETTINGS.model_copy(update={"workers": 2}))
    with pytest.raises(UserError, match=r"learn_sparsity trains in this process, without Ray: set training\.workers"):
        Prune(learn_sparsity=1).apply(model(), around)
