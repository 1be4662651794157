"""Recalibrated batch norms have the statistics of what they are given; nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from paretune.compression.recalibrate import Recalibrate
from paretune.core.errors import UserError
from paretune.core.types import InputSize
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from tests_support_compression import SIZE, MixedDetector, context, model, outputs, pictures, same_state, state

ALL = Recalibrate(images=8, batch_size=4)


def inputs(split) -> torch.Tensor:
    preprocess = MixedDetector().preprocess
    return torch.from_numpy(np.stack([preprocess(split.image(i), SIZE)[0] for i in range(len(split))]))


def test_the_first_norm_has_mean_and_variance_of_all_images(tmp_path: Path) -> None:
    train = pictures(8)
    tuned = ALL.apply(model(), context(tmp_path, train=train)).network
    with torch.no_grad():
        given = tuned.stem[0](inputs(train)).double()
    torch.testing.assert_close(tuned.stem[1].running_mean.double(), given.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    variance = given.var((0, 2, 3), correction=0)
    torch.testing.assert_close(tuned.stem[1].running_var.double(), variance, rtol=1e-4, atol=1e-6)


def test_a_batch_of_all_images_makes_eval_mode_compute_what_training_mode_does(tmp_path: Path) -> None:
    train = pictures(8)
    tuned = Recalibrate(images=8, batch_size=8).apply(model(), context(tmp_path, train=train)).network
    images = inputs(train)
    with torch.no_grad():
        in_eval, in_training = tuned(images), model().network.train()(images)
    for one, other in zip(in_eval, in_training, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_only_statistics_change_and_the_network_given_stays(tmp_path: Path) -> None:
    given = model()
    before = state(given.network)
    tuned = ALL.apply(given, context(tmp_path))
    after = state(tuned.network)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if name.endswith(("running_mean", "running_var"))}
    assert same_state(before, state(given.network))
    assert not any(module.training for module in tuned.network.modules())
    assert not any(module._forward_pre_hooks for module in tuned.network.modules())
    assert tuned.notes == ()
    assert (tuned.params, tuned.flops) == (given.params, given.flops)


def test_statistics_of_other_weights_are_mended(tmp_path: Path) -> None:
    """A network whose weights have all doubled computes the same again once its norms know of it."""
    right = ALL.apply(model(), context(tmp_path))
    doubled = model()
    with torch.no_grad():
        for module in doubled.network.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                module.weight.mul_(2)
    wrong = outputs(doubled.network)
    mended = outputs(ALL.apply(doubled, context(tmp_path)).network)
    for want, bad, good in zip(outputs(right.network), wrong, mended, strict=True):
        assert (bad - want).abs().max() > 0.05 * want.abs().max()
        torch.testing.assert_close(good, want, rtol=1e-2, atol=1e-3)


def test_the_seed_chooses_the_images_and_only_so_many_are_read(tmp_path: Path) -> None:
    step, read = Recalibrate(images=4, batch_size=2), []
    for seed in (0, 0, 1):
        train = pictures(16)
        step.apply(model(), context(tmp_path, train=train, seed=seed))
        read.append(train.read)
    assert read[0] == read[1] != read[2]
    assert len(set(read[0])) == len(read[0]) == 4


@pytest.mark.parametrize("norm", ["none", "frozen"])
def test_without_batch_norms_nothing_changes_and_it_says_so(norm: str, tmp_path: Path) -> None:
    given = model(MixedDetector(norm=norm))
    done = ALL.apply(given, context(tmp_path, MixedDetector(norm=norm)))
    assert done.notes == ("recalibrate changed nothing: the network has no batch norms with statistics",)
    assert same_state(state(given.network), state(done.network))


def test_one_image_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two training images"):
        ALL.apply(model(), context(tmp_path, train=pictures(1)))


@pytest.mark.slow
def test_norms_of_trained_weights_that_training_leaves_alone_are_recalibrated_too(tmp_path: Path) -> None:
    size, detector = InputSize(96, 64), FasterRcnn(proposals=8, head_width=32)
    given = model(detector, size)
    given.network._frozen = True
    tuned = Recalibrate(images=4, batch_size=2).apply(given, context(tmp_path, detector))
    before, after = state(given.network), state(tuned.network)
    assert all(not torch.equal(before[n], after[n]) for n in before if n.endswith("running_mean"))
    assert all(tensor.isfinite().all() for tensor in after.values())
