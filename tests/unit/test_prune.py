"""Pruning: exact, coupled channels together, the share that was asked for, and no silent nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune.compression.prune.ranking import channels_removed
from paretune.compression.prune.step import Prune
from paretune.core.library_names import IMPORTANCES, SENSITIVITIES
from paretune.detectors.base import Detector
from paretune.detectors.yolox.detector import Yolo
from paretune.networks.network_files import copy_network, count, layers
from tests_support_compression import MixedDetector, context, model, outputs, same_state, state

DENSE, SEPARABLE = Yolo(width=0.25, depthwise=False), Yolo(width=0.25, depthwise=True)
HALF = Yolo(width=0.125, depthwise=False)
MIXED, FROZEN, BARE = MixedDetector(), MixedDetector(norm="frozen"), MixedDetector(norm="none")
IDS = {"argvalues": [DENSE, SEPARABLE, MIXED, FROZEN], "ids": ["dense", "separable", "mixed", "frozen"]}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: a second thread waits more than it works, for very long where others use the cores too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def zeroed(dense: nn.Module, pruned: nn.Module) -> tuple[nn.Module, int]:
    """The dense network with the channels at zero that the pruned one has not; and how many those are.

    Which they are is told by the shifts and scales themselves: no two channels have the same.
    """
    copied, removed = copy_network(dense), 0
    for name, module in copied.named_modules():
        if getattr(module, "bias", None) is None:
            continue
        gone = ~torch.isin(module.bias, pruned.get_submodule(name).bias)
        removed += int(gone.sum())
        with torch.no_grad():
            module.weight[gone], module.bias[gone] = 0, 0
    return copied, removed


STEPS = (
    Prune(ratio=0.5),
    Prune(ratio=0.3, importance="lamp", scope="global"),
    Prune(ratio=0.8, importance="random", round_to=1),
    Prune(ratio=0.4, importance="fpgm", round_to=16),
    Prune(ratio=0.5, importance="bn_scale"),
    Prune(ratio=0.5, importance="l2", scope="global"),
    Prune(ratio=0.5, importance="taylor", scope="global", images=8),
    Prune(ratio=0.5, importance="hessian", scope="stage", images=8),
    Prune(ratio=0.5, importance="l1", scope="stage", budget="flops"),
)


@pytest.mark.parametrize(
    ("detector", "step"),
    [
        *[(detector, step) for detector in (MIXED, FROZEN) for step in STEPS],
        *[(detector, step) for detector in (DENSE, SEPARABLE) for step in STEPS[:2]],
        *[pytest.param(HALF, step, marks=pytest.mark.slow) for step in STEPS[2:]],
    ],
    ids=lambda spec: f"{spec.importance}-{spec.scope}" if isinstance(spec, Prune) else spec.name,
)
def test_a_pruned_network_is_the_dense_one_with_channels_at_zero(
    detector: Detector, step: Prune, tmp_path: Path
) -> None:
    dense = model(detector)
    pruned = step.apply(dense, context(tmp_path, detector))
    reference, removed = zeroed(dense.network, pruned.network)
    assert removed > 0
    for wanted, got in zip(outputs(reference), outputs(pruned.network), strict=True):
        assert wanted.shape == got.shape
        assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()
    assert (pruned.params, pruned.flops) == count(pruned.network, pruned.input_size)
    assert pruned.params < dense.params
    assert pruned.flops < dense.flops


@pytest.mark.parametrize("detector", **IDS)
def test_the_given_network_and_the_random_state_stay_as_they_were(detector: Detector, tmp_path: Path) -> None:
    dense = model(detector)
    first = next(dense.network.parameters()).requires_grad_(False)
    before, random = state(dense.network), torch.get_rng_state()
    pruned = Prune(ratio=0.5, importance="random").apply(dense, context(tmp_path, detector))
    assert same_state(before, state(dense.network))
    assert torch.equal(random, torch.get_rng_state())
    assert not first.requires_grad
    frozen = [name for name, parameter in pruned.network.named_parameters() if not parameter.requires_grad]
    assert frozen == [next(name for name, _ in dense.network.named_parameters())]
    assert not pruned.network.training


def test_frozen_norms_are_frozen_again_and_as_narrow_as_their_convolutions(tmp_path: Path) -> None:
    dense = model(FROZEN)
    pruned = Prune(ratio=0.5).apply(dense, context(tmp_path, FROZEN)).network
    assert [type(module) for module in pruned.modules()] == [type(module) for module in dense.network.modules()]
    assert {len(tensor) for tensor in pruned.stem[1].buffers()} == {pruned.stem[0].out_channels} == {16}


def test_random_channels_are_the_seeds(tmp_path: Path) -> None:
    step, dense = Prune(ratio=0.5, importance="random"), model()
    states = [state(step.apply(dense, context(tmp_path, seed=seed)).network) for seed in (0, 0, 1)]
    assert same_state(states[0], states[1])
    assert not same_state(states[0], states[2])


@pytest.mark.parametrize(("importance", "order"), [("l1", 1), ("l2", 2)])
def test_the_smallest_filters_go(importance: str, order: int, tmp_path: Path) -> None:
    """``plain`` is coupled to no other layer's outputs: its filters and what reads them decide."""
    dense = model()
    step = Prune.model_validate({"ratio": 0.5, "importance": importance, "round_to": 1})
    pruned = step.apply(dense, context(tmp_path)).network
    kept = torch.isin(dense.network.plain[0].bias, pruned.plain[0].bias)
    # the criterion of the group: the mean, over the layers that lose something, of their norms to the power p
    own = dense.network.plain[0].weight.detach().flatten(1).abs().pow(order).sum(1)
    readers = [layer.weight.detach().transpose(0, 1).flatten(1) for layer in (dense.network.box, dense.network.score)]
    sizes = own + sum(reader.abs().pow(order).sum(1) for reader in readers)
    assert kept.sum() == 24
    assert sizes[kept].min() > sizes[~kept].max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detector", "scope"), [(DENSE, "global"), (HALF, "local")], ids=["nano-global", "half of it-local"]
)
def test_a_higher_ratio_leaves_less_and_what_is_left_is_a_multiple(
    detector: Detector, scope: str, tmp_path: Path
) -> None:
    dense, sizes = model(detector), []
    for ratio in (0.1, 0.3, 0.5, 0.7, 0.9):
        step = Prune.model_validate({"ratio": ratio, "scope": scope})
        pruned = step.apply(dense, context(tmp_path, detector))
        sizes.append(pruned.params)
        free = {name: layer for name, layer in layers(pruned.network).items() if "preds" not in name}
        assert all(layer["out_channels"] % 8 == 0 for layer in free.values() if layer["kind"] == "conv2d")
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[0] < dense.params


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.6])
def test_the_share_that_goes_is_the_one_asked_for(ratio: float, tmp_path: Path) -> None:
    dense = model(DENSE)
    pruned = Prune(ratio=ratio).apply(dense, context(tmp_path, DENSE))
    widths = [
        sum(layer["out_channels"] for name, layer in layers(network).items() if "out_channels" in layer)
        for network in (dense.network, pruned.network)
    ]
    assert 1 - widths[1] / widths[0] == pytest.approx(ratio, abs=0.03)


@given(st.integers(1, 600), st.floats(0, 1), st.integers(1, 256))
def test_rounding_is_to_the_nearest_multiple_that_is_there(channels: int, share: float, multiple: int) -> None:
    asked = int(channels * share)
    removed = channels_removed(asked, channels, multiple)
    possible = list(range(multiple, channels + 1, multiple))
    if not possible:
        assert removed == 0
    else:
        assert channels - removed in {*possible, channels}
        nearest = min(abs(channels - asked - left) for left in (*possible, channels))
        assert abs(channels - removed - (channels - asked)) <= max(nearest, multiple / 2)
    assert 0 <= removed < channels


@given(st.integers(1, 600), st.integers(1, 64))
def test_rounding_never_removes_less_when_more_is_asked(channels: int, multiple: int) -> None:
    removed = [channels_removed(asked, channels, multiple) for asked in range(channels + 1)]
    assert removed == sorted(removed)
    assert removed[0] == 0


@pytest.mark.parametrize("step", [Prune(ratio=0), Prune(ratio=0.5, round_to=256), Prune(ratio=0.01)])
def test_nothing_removed_is_noted(step: Prune, tmp_path: Path) -> None:
    dense = model()
    same = step.apply(dense, context(tmp_path))
    assert [note for note in same.notes if "changed nothing" in note]
    assert same_state(state(dense.network), state(same.network))
    assert same.network is not dense.network
    assert (same.params, same.flops, same.history) == (dense.params, dense.flops, ("prune",))


def test_a_network_without_norms_is_pruned(tmp_path: Path) -> None:
    assert Prune(importance="l1", ratio=0.5).apply(model(BARE), context(tmp_path, BARE)).notes == ()


def test_a_network_without_anything_to_prune_is_an_error(tmp_path: Path) -> None:
    class Shut(MixedDetector):
        def protected(self, network: nn.Module) -> list[nn.Module]:
            return [module for module in network.modules() if isinstance(module, nn.Conv2d)]

    with pytest.raises(RuntimeError, match="no prunable layer"):
        Prune().apply(model(), context(tmp_path, Shut()))


@pytest.mark.slow
def test_one_pruning_leaves_nothing_behind_for_the_next(tmp_path: Path) -> None:
    first = state(Prune(ratio=0.5).apply(model(), context(tmp_path)).network)
    Prune(ratio=0.5).apply(model(DENSE), context(tmp_path, DENSE))
    assert same_state(first, state(Prune(ratio=0.5).apply(model(), context(tmp_path)).network))


@pytest.mark.slow
def test_pruning_twice_prunes_on(tmp_path: Path) -> None:
    once = Prune(ratio=0.5).apply(model(DENSE), context(tmp_path, DENSE))
    twice = Prune(ratio=0.3, round_to=1).apply(once, context(tmp_path, DENSE))
    assert twice.params < once.params
    assert twice.history == ("prune", "prune")
    assert all(np.isfinite(output.numpy()).all() for output in outputs(twice.network))


def test_criteria_are_those_of_the_table() -> None:
    assert set(get_args(Prune.model_fields["importance"].annotation)) == {*IMPORTANCES, *SENSITIVITIES}
