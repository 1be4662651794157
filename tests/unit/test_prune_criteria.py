"""What makes a channel important: held against gates in the network, gradients by hand, and the scores' own places."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paretune.compression.prune.criteria import make_criterion
from paretune.compression.prune.dependency_groups import ChannelGroup, trace_dependency_groups
from paretune.compression.prune.step import Prune
from paretune.core.errors import UserError
from paretune.core.library_names import IMPORTANCES, SENSITIVITIES
from paretune.core.model import Model
from paretune.networks.layer_kinds import summed_by_input
from paretune.networks.network_files import copy_network
from tests_support_compression import SETTINGS, SIZE, Mixed, MixedDetector, context, model, outputs, pictures, state

SINGLY = SETTINGS.model_copy(update={"batch_size": 1})
BARE = MixedDetector(norm="none")


def scores(dense: Model, importance: str, tmp_path: Path, detector: MixedDetector, **more: object) -> dict[str, Tensor]:
    """By the first layer of each block; eight pictures, one in a batch."""
    around = context(tmp_path, detector, training=SINGLY, **more)
    criterion = make_criterion(importance, dense.network, SIZE, around, 8)
    with trace_dependency_groups(copy_network(dense.network), detector, SIZE) as coupling:
        return {block.name: criterion(block) for block in coupling.blocks}


def inputs(detector: MixedDetector) -> list[Tensor]:
    split = pictures(8)
    return [torch.from_numpy(detector.preprocess(split.image(index), SIZE)[0][None]) for index in range(8)]


def gated(network: Mixed, images: Tensor, residual: Tensor, last: Tensor) -> Tensor:
    """The loss with a factor on every channel wherever a layer reads it."""
    x = network.stem(images)
    x = x + network.same(x * residual)
    x = network.plain(torch.cat((x * residual, network.deep(x) * residual), 1)) * last
    return MixedDetector().loss((network.box(x), network.score(x)), (), SIZE)


@pytest.mark.parametrize("detector", [MixedDetector(), BARE], ids=["batch", "none"])
def test_taylor_is_the_squared_gradient_of_a_gate(detector: MixedDetector, tmp_path: Path) -> None:
    """Molchanov et al., section 3.2: the importance of a gate is the square of the loss's gradient by it."""
    dense = model(detector)
    found = scores(dense, "taylor", tmp_path, detector)
    gates = [torch.ones(1, 32, 1, 1, requires_grad=True), torch.ones(1, 48, 1, 1, requires_grad=True)]
    wanted = [torch.zeros(32), torch.zeros(48)]
    for images in inputs(detector):
        gradients = torch.autograd.grad(sum(gated(dense.network, images, *gates).values()), gates)
        for total, gradient in zip(wanted, gradients, strict=True):
            total.add_(gradient.flatten().square() / 8)
    last, residual = found.pop("plain.0"), found.popitem()[1]
    torch.testing.assert_close(residual, wanted[0], rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(last, wanted[1], rtol=1e-3, atol=1e-9)


def test_hessian_is_the_sum_of_squared_gradients_of_the_batches(tmp_path: Path) -> None:
    dense = model()
    found = scores(dense, "hessian", tmp_path, MixedDetector())["plain.0"]
    readers = [dense.network.box.weight, dense.network.score.weight]
    fisher = [torch.zeros_like(weight) for weight in readers]
    for images in inputs(MixedDetector()):
        terms = MixedDetector().loss(dense.network(images), (), SIZE)
        for total, gradient in zip(fisher, torch.autograd.grad(sum(terms.values()), readers), strict=True):
            total.add_(gradient.square())
    parts = [weight.detach().square() * total / 8 / 2 for weight, total in zip(readers, fisher, strict=True)]
    torch.testing.assert_close(found, sum(part.sum((0, 2, 3)) for part in parts), rtol=1e-4, atol=1e-12)


def test_a_whole_batch_is_one_gradient(tmp_path: Path) -> None:
    """Norms keep their statistics: else a batch would be of another network than its pictures one by one."""
    dense = model()
    around = context(tmp_path, training=SETTINGS.model_copy(update={"batch_size": 8}))
    criterion = make_criterion("taylor", dense.network, SIZE, around, 8)
    gate = torch.ones(1, 48, 1, 1, requires_grad=True)
    terms = gated(dense.network, torch.cat(inputs(MixedDetector())), torch.ones(1, 32, 1, 1), gate)
    (gradient,) = torch.autograd.grad(sum(terms.values()), gate)
    with trace_dependency_groups(copy_network(dense.network), MixedDetector(), SIZE) as coupling:
        found = criterion(next(block for block in coupling.blocks if block.name == "plain.0"))
    torch.testing.assert_close(found, gradient.flatten().square(), rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("importance", SENSITIVITIES)
def test_gradients_change_nothing_and_are_the_seeds(importance: str, tmp_path: Path) -> None:
    dense, train = model(), pictures(12)
    before, random = state(dense.network), torch.get_rng_state()
    around = [context(tmp_path, train=train, training=SINGLY, seed=seed) for seed in (0, 0, 1)]
    kinds = [make_criterion(importance, dense.network, SIZE, one, 4) for one in around]
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in state(dense.network).items())
    assert all(parameter.grad is None for parameter in dense.network.parameters())
    assert {len(rows) for kind in kinds for rows in kind.changes.values()} == {4}
    same, other = (all(torch.equal(kinds[0].changes[n], kinds[k].changes[n]) for n in kinds[0].changes) for k in (1, 2))
    assert same
    assert not other


def test_a_gradient_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    dense = model()
    with torch.no_grad():
        dense.network.box.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"importance taylor: a gradient of layer .* is not finite"):
        Prune(importance="taylor").apply(dense, context(tmp_path))


def test_too_few_images_are_noted(tmp_path: Path) -> None:
    dense, around = model(), context(tmp_path)
    assert Prune(importance="taylor", images=8).apply(dense, around).notes == ()
    noted = Prune(importance="hessian", images=9).apply(dense, around).notes
    assert noted == ("prune: hessian asks for 9 training images, and there are 8",)


@pytest.mark.parametrize("importance", [*IMPORTANCES, *SENSITIVITIES])
@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
def test_every_channel_has_a_score_of_its_own(importance: str, norm: str, tmp_path: Path) -> None:
    """Also where the first layer that is scored reads a concatenation in which each channel stands twice."""
    detector = MixedDetector(norm=norm)
    dense = model(detector)
    if (importance, norm) == ("bn_scale", "none"):
        with pytest.raises(UserError, match="bn_scale needs batch norms"):
            make_criterion(importance, dense.network, SIZE, context(tmp_path, detector), 8)
        return
    criterion = make_criterion(importance, dense.network, SIZE, context(tmp_path, detector), 8)
    with trace_dependency_groups(copy_network(dense.network), detector, SIZE) as coupling:
        for block in coupling.blocks:
            found = criterion(block)
            if found is not None:
                assert found.shape == (block.channels,)
                assert len(found.unique()) > block.channels / 2


def without_norms(dense: Mixed, pruned: Mixed) -> Mixed:
    """The dense network with channels at zero: by the filters of the first layer, and biases."""
    copied = copy_network(dense)
    rows = dense.stem[0].weight.flatten(1), pruned.stem[0].weight.flatten(1)
    gone = ~(rows[0][:, None] == rows[1][None]).all(2).any(1)
    lost = ~torch.isin(dense.plain[0].bias, pruned.plain[0].bias)
    assert gone.any()
    assert lost.any()
    with torch.no_grad():
        for layer in (copied.stem[0], copied.same[0], copied.deep[0]):
            layer.weight[gone] = 0
        copied.plain[0].weight[lost], copied.plain[0].bias[lost] = 0, 0
    return copied


@pytest.mark.parametrize("scope", ["local", "stage", "global"])
@pytest.mark.parametrize("importance", [name for name in (*IMPORTANCES, *SENSITIVITIES) if name != "bn_scale"])
def test_without_norms_too_pruned_is_dense_with_channels_at_zero(importance: str, scope: str, tmp_path: Path) -> None:
    dense = model(BARE)
    step = Prune.model_validate({"ratio": 0.5, "importance": importance, "scope": scope, "round_to": 4, "images": 8})
    pruned = step.apply(dense, context(tmp_path, BARE))
    if {pruned.network.stem[0].out_channels, pruned.network.plain[0].out_channels} & {32, 48}:
        pytest.skip("one of the two blocks has lost nothing")
    reference = without_norms(dense.network, pruned.network)
    for wanted, got in zip(outputs(reference), outputs(pruned.network), strict=True):
        assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()


def test_what_reads_an_input_is_summed_also_in_groups() -> None:
    layer = nn.Conv2d(6, 4, 3, groups=2)
    found = summed_by_input(layer, layer.weight.detach())
    whole = torch.zeros(4, 6, 3, 3)
    whole[:2, :3], whole[2:, 3:] = layer.weight.detach().chunk(2)
    torch.testing.assert_close(found, whole.sum((0, 2, 3)))


def test_a_block_that_nothing_reads_has_no_sensitivity(tmp_path: Path) -> None:
    criterion = make_criterion("taylor", model().network, SIZE, context(tmp_path), 4)
    assert criterion(ChannelGroup("alone", 4, 1, (), None)) is None
