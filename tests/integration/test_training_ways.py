"""The ways of training: accumulation, several sizes, validation, early stopping, every loss; each resumed exactly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import ops, tv_tensors
from torchvision.transforms.v2 import functional as tv

from paretune.core.errors import UserError
from paretune.core.model import Model
from paretune.core.target import Target
from paretune.core.types import Annotations, InputSize
from paretune.detectors.base import Losses
from paretune.detectors.losses import box_loss
from paretune.detectors.yolox.detector import Yolo
from paretune.evaluation import evaluate
from paretune.runtimes.artefact_writer import write_artefact
from paretune.runtimes.eager import Eager
from paretune.runtimes.predictor import load_predictor
from paretune.training import loop
from paretune.training import mixed_precision as precision
from paretune.training.checkpoint import load_state, save_state
from paretune.training.loop import Epoch, Options, train
from paretune.training.settings import Training
from paretune.training.trainer import at_size
from paretune.training.validation import validate
from tests_support_training import Squares

TINY = Yolo(width=0.0625, depthwise=False)
SIZE = InputSize(64, 64)
QUICK = Training(epochs=4, batch_size=4, lr=4e-3, threads=1, device="cpu", warmup_epochs=0.5)


class Plain(nn.Module):
    """A network without norms: what one image does to it does not depend on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 1, 3, 2))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.layers(images / 255),)


def mean_square(forward: Callable[..., Any], images: Tensor, _: Sequence[Annotations]) -> dict[str, Tensor]:
    return {"square": (forward(images)[0] - 1).square().mean()}


def fresh(seed: int = 0, kind: Callable[[], nn.Module] = lambda: TINY.build(2)) -> nn.Module:
    torch.manual_seed(seed)
    return kind()


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_accumulated_batches_do_what_the_large_batch_does(optimizer: str) -> None:
    settings = QUICK.model_copy(update={"batch_size": 8, "optimizer": optimizer, "lr": 1e-2})
    options = Options(loss=mean_square)
    large = train(fresh(0, Plain), TINY, Squares(24, 80, 60), SIZE, settings, options=options)
    parts = settings.model_copy(update={"batch_size": 2, "accumulate": 4})
    small = train(fresh(0, Plain), TINY, Squares(24, 80, 60), SIZE, parts, options=options)
    for (name, a), b in zip(large.network.state_dict().items(), small.network.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=name)
    for one, other in zip(large.epochs, small.epochs, strict=True):
        assert one["losses"]["square"] == pytest.approx(other["losses"]["square"], rel=1e-5)
        assert one["lr"] == other["lr"]
    assert not same(weights(large.network), weights(fresh(0, Plain)))


def test_what_is_left_of_an_epoch_makes_a_smaller_step() -> None:
    steps: list[int] = []

    def counted(forward: Callable[..., Any], images: Tensor, truth: Sequence[Annotations]) -> dict[str, Tensor]:
        steps.append(len(truth))
        return mean_square(forward, images, truth)

    settings = QUICK.model_copy(update={"batch_size": 4, "accumulate": 2, "epochs": 1, "optimizer": "SGD", "ema": 0.5})
    kept: list[Epoch] = []
    train(
        fresh(0, Plain), TINY, Squares(12, 80, 60), SIZE, settings, on_epoch=kept.append, options=Options(loss=counted)
    )
    assert steps == [4, 4, 4]
    assert kept[0].state.averaged == 2  # steps: two batches, then the third alone


def test_boxes_move_with_the_pixels_as_in_torchvision() -> None:
    images = torch.rand(2, 3, 48, 64)
    boxes = np.array([[3, 4, 30, 40], [0, 0, 64, 48]], np.float32)
    truth = [Annotations(boxes, np.arange(2), np.zeros(2, bool))] * 2
    scaled, moved = at_size(images, truth, InputSize(96, 64))
    assert scaled.shape == (2, 3, 64, 96)
    marked = tv_tensors.BoundingBoxes(torch.from_numpy(boxes), format="XYXY", canvas_size=(48, 64))
    oracle = tv.resize(marked, [64, 96])
    np.testing.assert_allclose(moved[0].boxes, oracle.numpy(), rtol=1e-6)
    torch.testing.assert_close(scaled, tv.resize(images, [64, 96], antialias=False), rtol=1e-5, atol=1e-5)
    assert at_size(images, truth, InputSize(64, 48))[0] is images


def test_several_sizes_are_really_trained_at() -> None:
    seen: list[tuple[int, int]] = []

    def loss(forward: Callable[..., Any], images: Tensor, truth: Sequence[Annotations]) -> dict[str, Tensor]:
        seen.append((images.shape[-1], images.shape[-2]))
        assert all((entry.boxes[:, 2] <= images.shape[-1] + 1e-3).all() for entry in truth)
        return TINY.training_loss(forward, images, truth)

    settings = QUICK.model_copy(update={"multi_scale": 0.5, "epochs": 5})
    train(fresh(), TINY, Squares(8, 80, 60), SIZE, settings, options=Options(loss=loss))
    assert set(seen) == {(32, 32), (64, 64), (96, 96)}


@pytest.mark.slow
def test_validating_is_evaluating_the_deployed_network(tmp_path: Path) -> None:
    split = Squares(16, 80, 60)
    settings = QUICK.model_copy(update={"epochs": 40, "lr": 1e-2, "ema": 0.9, "flip": 0.0})
    network = train(fresh(), TINY, split, SIZE, settings).network
    found = validate(network, TINY, split, SIZE, batch=4)
    model = Model(network, None, SIZE)
    folder = tmp_path / "artefact"
    write_artefact(folder, model, detector=TINY, runtime=Eager(), recipe_tree={}, classes=split.classes)
    deployed = evaluate(load_predictor(folder, Target()), split)
    assert deployed.map > 0.05
    for name, value in deployed.metrics().items():
        assert found.metrics()[name] == pytest.approx(value, abs=2e-3), name


def stopped(settings: Training, scores: list[float], monkeypatch: pytest.MonkeyPatch, **options: Any):
    """Train with validation scores that are given beforehand, by the epoch."""
    at: list[int] = []

    def score(run: Any, *_: Any) -> float:
        at.append(len(at))
        return scores[at[-1]]

    monkeypatch.setattr(loop, "_score", score)
    kept: dict[int, dict[str, Tensor]] = {}

    def remember(epoch: Epoch) -> None:
        kept[epoch.number] = {name: tensor.clone() for name, tensor in epoch.state.average.items()}
        if "folder" in options:
            save_state(epoch.state, options["folder"])

    result = train(
        fresh(),
        TINY,
        Squares(4, 80, 60),
        SIZE,
        settings,
        on_epoch=remember,
        options=Options(val=Squares(4, 80, 60), resume=options.get("resume")),
    )
    return result, kept


@pytest.mark.slow
def test_stops_when_nothing_gets_better_and_keeps_the_best(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"epochs": 20, "validate_every": 1, "patience": 3})
    scores = [0.1, 0.3, 0.2, 0.3, 0.25, 0.9]
    result, kept = stopped(settings, scores, monkeypatch, folder=tmp_path)
    assert [epoch["map"] for epoch in result.epochs] == scores[:5]
    assert result.best == 2
    assert same(weights(result.network), kept[2])
    again, _ = stopped(settings, [], monkeypatch, resume=load_state(tmp_path))
    assert again.epochs == ()
    assert same(weights(again.network), kept[2])


def test_patience_counts_epochs_not_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = QUICK.model_copy(update={"epochs": 20, "validate_every": 2, "patience": 4})
    result, _ = stopped(settings, [0.5, 0.4, 0.3, 0.9], monkeypatch)
    assert [epoch["map"] for epoch in result.epochs] == [None, 0.5, None, 0.4, None, 0.3]


def test_validation_needs_a_split_with_objects() -> None:
    class Empty(Squares):
        def annotations(self, index: int) -> Annotations:
            return Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))

    settings = QUICK.model_copy(update={"epochs": 2, "validate_every": 1})
    with pytest.raises(UserError, match="no validation split"):
        train(fresh(), TINY, Squares(4, 80, 60), SIZE, settings)
    result = train(fresh(), TINY, Squares(4, 80, 60), SIZE, settings, options=Options(val=Empty(2)))
    assert [epoch["map"] for epoch in result.epochs] == [None, None]
    patient = settings.model_copy(update={"patience": 1})
    with pytest.raises(UserError, match="holds no objects"):
        train(fresh(), TINY, Squares(4, 80, 60), SIZE, patient, options=Options(val=Empty(2)))


WAYS = {
    "accumulate": {"accumulate": 2, "batch_size": 2},
    "multi_scale": {"multi_scale": 0.5},
    "early stopping": {"validate_every": 1, "patience": 4},
    "float16": {"amp": True},
    "no average": {"ema": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_interrupted_it_ends_exactly_where_an_undisturbed_one_does(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if way == "float16":
        monkeypatch.setattr("paretune.training.trainer.computed_in", lambda *_: torch.float16)
    settings = QUICK.model_copy(update=WAYS[way])
    options = {"val": Squares(4, 80, 60)} if "validate_every" in WAYS[way] else {}

    class KilledError(Exception):
        pass

    def stop_after_two(epoch: Epoch) -> None:
        save_state(epoch.state, tmp_path)
        if epoch.number == 2:
            raise KilledError

    whole = train(fresh(), TINY, Squares(8, 80, 60), SIZE, settings, options=Options(**options))
    with pytest.raises(KilledError):
        train(fresh(), TINY, Squares(8, 80, 60), SIZE, settings, on_epoch=stop_after_two, options=Options(**options))
    resumed = train(
        fresh(99), TINY, Squares(8, 80, 60), SIZE, settings, options=Options(resume=load_state(tmp_path), **options)
    )
    assert same(weights(whole.network), weights(resumed.network))
    assert [e["losses"] for e in resumed.epochs] == [e["losses"] for e in whole.epochs[2:]]


def test_automatic_precision_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    for native in (True, False):
        monkeypatch.setattr(precision, "native_bfloat16", lambda _, native=native: native)
        settings = QUICK.model_copy(update={"amp": "auto", "epochs": 1})
        told[native] = train(fresh(), TINY, Squares(4, 80, 60), SIZE, settings).epochs[0]
    assert (told[True]["precision"], told[False]["precision"]) == ("bfloat16", "float32")
    assert sum(told[True]["losses"].values()) == pytest.approx(sum(told[False]["losses"].values()), rel=0.05)
    assert told[True]["losses"] != told[False]["losses"]


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("giou", ops.generalized_box_iou_loss),
        ("diou", ops.distance_box_iou_loss),
        ("ciou", ops.complete_box_iou_loss),
        ("iou", lambda a, b: 1 - ops.box_iou(a, b).diagonal()),
    ],
)
def test_box_losses_are_torchvisions(kind: str, oracle: Callable[..., Tensor]) -> None:
    rng = torch.Generator().manual_seed(1)
    corners = torch.rand(2, 40, 2, generator=rng) * 50
    boxes, wanted = (torch.cat((c, c + 1 + torch.rand(40, 2, generator=rng) * 40), 1) for c in corners)
    torch.testing.assert_close(box_loss(kind, boxes, wanted), oracle(boxes, wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("losses", [Losses(box, None) for box in Yolo.box_losses] + [Losses(None, "focal")], ids=str)
def test_every_loss_that_is_offered_trains_and_is_the_one_that_runs(losses: Losses) -> None:
    settings = QUICK.model_copy(
        update={"box_loss": losses.box, "class_loss": losses.classes, "epochs": 6, "flip": 0.0, "lr": 8e-3}
    )
    result = train(fresh(), TINY, Squares(8, 80, 60), SIZE, settings)
    first, last = result.epochs[0]["losses"], result.epochs[-1]["losses"]
    term = "box" if losses.box else "class"
    assert sum(last.values()) < sum(first.values())  # the class term alone may rise: surer boxes ask for surer classes
    assert all(math.isfinite(value) for value in last.values())
    own = train(
        fresh(), TINY, Squares(8, 80, 60), SIZE, settings.model_copy(update={"box_loss": None, "class_loss": None})
    )
    assert own.epochs[0]["losses"][term] != first[term]
