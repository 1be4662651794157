"""The loop: it learns, it resumes exactly, it says when it diverges, and it leaves the process as it found it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretune.core.errors import UserError
from paretune.core.library_names import OPTIMIZERS
from paretune.core.types import Annotations, InputSize, Thresholds
from paretune.data.preprocess import Preprocess
from paretune.detectors.yolox.detector import Yolo
from paretune.training.checkpoint import FILE, TrainingState, load_state, save_state
from paretune.training.loop import Epoch, Options, pick_device, train
from paretune.training.optimizer import ModelEma, make_optimizer
from paretune.training.settings import Training
from paretune.training.trainer import learning_rate
from tests_support_training import Squares

TINY = Yolo(width=0.0625, depthwise=False)
SIZE = InputSize(64, 64)
QUICK = Training(epochs=4, batch_size=4, lr=4e-3, threads=1, device="cpu", flip=0.5, warmup_epochs=0.5)


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TINY.build(2)


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


@pytest.mark.slow
def test_the_same_settings_give_the_same_weights_and_another_seed_does_not() -> None:
    runs = [
        weights(train(fresh(), TINY, Squares(8), SIZE, QUICK.model_copy(update={"epochs": 2, "seed": seed})).network)
        for seed in (0, 0, 1)
    ]
    assert equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])


def test_a_frozen_backbone_stays_as_it_is_and_is_trained_afterwards() -> None:
    network = fresh()
    seen = [weights(network)]
    settings = QUICK.model_copy(update={"epochs": 2, "freeze_epochs": 1, "ema": 0.0})
    train(network, TINY, Squares(8), SIZE, settings, on_epoch=lambda _: seen.append(weights(network)))
    (backbone,) = TINY.distill_features
    held = [name for name in seen[0] if name.startswith(f"{backbone}.")]
    others = [name for name in seen[0] if name not in held and seen[0][name].is_floating_point()]
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in held)  # statistics of its norms, too
    assert not any(torch.equal(seen[0][name], seen[1][name]) for name in others if name.endswith("weight"))
    changed = [name for name in held if not torch.equal(seen[1][name], seen[2][name])]
    assert len(changed) > len(held) / 2


@pytest.mark.parametrize("optimizer", ["AdamW", pytest.param("SGD", marks=pytest.mark.slow)])
def test_an_interrupted_training_ends_exactly_where_an_undisturbed_one_does(optimizer: str, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"optimizer": optimizer})
    whole = train(fresh(), TINY, Squares(8), SIZE, settings)

    class KilledError(Exception):
        pass

    def stop_after_two(epoch: Epoch) -> None:
        save_state(epoch.state, tmp_path)
        if epoch.number == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(fresh(), TINY, Squares(8), SIZE, settings, on_epoch=stop_after_two)
    state = load_state(tmp_path)
    assert state is not None
    assert state.epoch == 2
    # a network with other fresh weights: everything must come from the state
    resumed = train(fresh(99), TINY, Squares(8), SIZE, settings, options=Options(resume=state))
    assert equal(weights(whole.network), weights(resumed.network))
    assert [epoch["number"] for epoch in resumed.epochs] == [3, 4]


@pytest.mark.slow
def test_a_finished_state_is_not_trained_again(tmp_path: Path) -> None:
    whole = train(fresh(), TINY, Squares(8), SIZE, QUICK, on_epoch=lambda epoch: save_state(epoch.state, tmp_path))
    again = train(fresh(5), TINY, Squares(8), SIZE, QUICK, options=Options(resume=load_state(tmp_path)))
    assert again.epochs == ()
    assert equal(weights(whole.network), weights(again.network))


@pytest.mark.slow
def test_the_state_of_another_training_is_refused_but_not_of_another_place(tmp_path: Path) -> None:
    train(fresh(), TINY, Squares(8), SIZE, QUICK, on_epoch=lambda epoch: save_state(epoch.state, tmp_path))
    resume = Options(resume=load_state(tmp_path))
    with pytest.raises(UserError, match="settings"):
        train(fresh(), TINY, Squares(8), SIZE, QUICK.model_copy(update={"lr": 1e-3}), options=resume)
    moved = QUICK.model_copy(update={"threads": 2, "device": "auto"})
    assert train(fresh(), TINY, Squares(8), SIZE, moved, options=resume).epochs == ()


def test_a_damaged_or_hostile_state_is_refused(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UserError, match="not a readable training state"):
        load_state(tmp_path)
    torch.save({"made_by": TrainingState}, tmp_path / FILE)  # a class: unpickling it could run code
    with pytest.raises(UserError, match="not a readable training state"):
        load_state(tmp_path)


def test_a_loss_that_is_not_finite_names_its_step_and_keeps_the_weights() -> None:
    network, calls = fresh(), []

    def loss(forward: Callable[..., Any], images: Tensor, _: Sequence[Annotations]) -> dict[str, Tensor]:
        raw = forward(images)
        calls.append(weights(network))
        return {"box": raw[0].square().mean() * (math.nan if len(calls) == 4 else 1)}

    settings = QUICK.model_copy(update={"ema": 0.0})
    with pytest.raises(FloatingPointError, match=r"epoch 2, step 2.*box.*nan"):
        train(network, TINY, Squares(8), SIZE, settings, options=Options(loss=loss))
    norms = {name for name in calls[3] if "running" in name or "tracked" in name}
    assert equal(
        {k: v for k, v in weights(network).items() if k not in norms},
        {k: v for k, v in calls[3].items() if k not in norms},
    )


def test_a_gradient_that_is_not_finite_is_caught_before_it_reaches_the_weights() -> None:
    network = fresh()

    def loss(forward: Callable[..., Any], images: Tensor, _: Sequence[Annotations]) -> dict[str, Tensor]:
        raw = forward(images)
        return {"box": (raw[0] - raw[0].detach()).abs().sqrt().sum()}  # 0, but its slope is infinite

    with pytest.raises(FloatingPointError, match="gradient"):
        train(network, TINY, Squares(8), SIZE, QUICK, options=Options(loss=loss))
    assert all(torch.isfinite(parameter).all() for parameter in network.parameters())


def test_threads_and_random_numbers_of_the_caller_stay_as_they_were() -> None:
    before, network, seen = torch.get_num_threads(), fresh(), []
    state = torch.get_rng_state()
    torch.set_num_threads(3)
    try:
        settings = QUICK.model_copy(update={"epochs": 1, "threads": 1})
        train(network, TINY, Squares(4), SIZE, settings, on_epoch=lambda _: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 3
        with pytest.raises(KeyboardInterrupt):
            train(
                network, TINY, Squares(4), SIZE, settings, on_epoch=lambda _: (_ for _ in ()).throw(KeyboardInterrupt)
            )
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == [1]
    assert torch.equal(state, torch.get_rng_state())


def test_each_epoch_is_reported() -> None:
    epochs: list[Epoch] = []
    result = train(fresh(), TINY, Squares(8), SIZE, QUICK, on_epoch=epochs.append)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4]
    assert set(epochs[0].losses) == {"box", "objectness", "class"}
    assert all(epoch.images_per_second > 0 and epoch.seconds > 0 for epoch in epochs)
    assert "epoch 4/4: loss" in str(epochs[3])
    assert len(result.epochs) == 4
    assert not result.network.training
    assert next(result.network.parameters()).grad is None


@pytest.mark.slow
def test_bfloat16_trains_too() -> None:
    result = train(fresh(), TINY, Squares(8), SIZE, QUICK.model_copy(update={"amp": True}))
    assert result.epochs[-1]["losses"]["box"] < result.epochs[0]["losses"]["box"]
    assert {parameter.dtype for parameter in result.network.parameters()} == {torch.float32}


@pytest.mark.slow
def test_it_learns_to_find_squares() -> None:
    split = Squares(48)
    settings = Training(epochs=30, batch_size=8, lr=8e-3, ema=0.95, threads=1, device="cpu", flip=0.0)
    network = train(fresh(), TINY, split, SIZE, settings).network
    found = right = 0
    for index in range(len(split)):
        planes, _ = TINY.preprocess(split.image(index), SIZE)
        with torch.no_grad():
            raw = [maps.numpy() for maps in network(torch.from_numpy(planes[None]))]
        (detections,) = TINY.decode(raw, SIZE, Thresholds(score=0.3))
        truth = split.annotations(index)
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            near = np.abs(detections.boxes - box).max(axis=1) < 6
            right += bool((near & (detections.labels == label)).any())
            found += 1
    assert right / found > 0.75  # of pairs that overlap one square hides the other


# optimizers, schedule, average


def test_learning_rate_rises_falls_and_never_ends_at_nothing() -> None:
    settings = Training(epochs=10, lr=1.0, warmup_epochs=2)
    rates = [learning_rate(step, 20, settings) for step in range(200)]
    assert np.diff(rates[:41]).min() > 0
    assert np.diff(rates[41:]).max() < 0
    assert max(rates) == rates[40] == 1.0
    assert rates[-1] == pytest.approx(0.01, rel=0.05)
    assert rates[0] == pytest.approx(1 / 41)
    assert rates[40 + 80] == pytest.approx((1 + 0.01) / 2)


def test_one_step_trains_with_some_learning_rate() -> None:
    assert 0 < learning_rate(0, 1, Training(epochs=1, lr=0.5)) <= 0.5


def test_only_weights_decay() -> None:
    network = fresh()
    decayed, others = make_optimizer(network, QUICK).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (QUICK.weight_decay, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert len(decayed["params"]) + len(others["params"]) == len(list(network.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_of_torch_train(name: str) -> None:
    network = fresh()
    before = weights(network)
    train(network, TINY, Squares(4), SIZE, QUICK.model_copy(update={"optimizer": name, "epochs": 1, "lr": 1e-3}))
    assert not equal(before, weights(network))


@pytest.mark.parametrize("name", ["AdamWW", "LBFGS", "Optimizer", "lr_scheduler", "Muon"])
def test_what_cannot_train_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=name):
        make_optimizer(fresh(), QUICK.model_copy(update={"optimizer": name}))


def test_the_average_forgets_its_beginning_and_covers_the_statistics_of_norms() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    average = ModelEma(network, 0.9)
    with torch.no_grad():
        for value in (1.0, 2.0, 3.0):
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(value)
            network[1].num_batches_tracked.fill_(int(value))
            average.update()
    mean = 0.0  # what a fresh norm's running mean is
    for step, value in enumerate((1.0, 2.0, 3.0), start=1):
        decay = min(0.9, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value
    averaged = average.network.state_dict()
    assert averaged["1.running_mean"].item() == pytest.approx(mean, rel=1e-5)
    assert averaged["1.num_batches_tracked"].item() == 3
    for _ in range(2000):
        average.update()
    assert averaged["1.running_mean"].item() == pytest.approx(3, rel=1e-4)


def test_a_gpu_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert (pick_device("auto"), pick_device("cpu")) == ("cpu", "cpu")
    with pytest.raises(UserError, match="no GPU"):
        pick_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device("auto"), pick_device("cpu"), pick_device("cuda")) == ("cuda", "cpu", "cuda")


def test_preprocessing_of_training_is_the_detectors_own() -> None:
    seen: list[Tensor] = []

    def loss(forward: Callable[..., Any], images: Tensor, _: Sequence[Annotations]) -> dict[str, Tensor]:
        seen.append(images.clone())
        return {"box": forward(images)[0].square().mean()}

    split = Squares(4)
    settings = QUICK.model_copy(update={"epochs": 1, "flip": 0.0})
    train(fresh(), TINY, split, SIZE, settings, options=Options(loss=loss))
    own: Preprocess = TINY.preprocess
    expected = {own(split.image(index), SIZE)[0].tobytes() for index in range(4)}
    assert {image.contiguous().numpy().tobytes() for image in seen[0]} == expected
