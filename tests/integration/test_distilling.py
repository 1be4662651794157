"""Distillation: what is compared and how, that it is learnt, and that nothing of it stays in the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from paretune.compression.base import Context
from paretune.compression.finetune import Finetune
from paretune.compression.prune.step import Prune
from paretune.config.plan import checked_space
from paretune.config.recipe import Recipe
from paretune.core.errors import UserError
from paretune.core.types import Annotations, InputSize
from paretune.core.yaml_document import read_yaml
from paretune.data.synthetic.shapes import Shapes
from paretune.detectors.base import Detector
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.faster_rcnn.distillation import frcnn_regions
from paretune.detectors.losses import binary_divergence, divergence
from paretune.detectors.ssd.default_boxes import CENTRE_WEIGHT
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.ssd.distillation import ssd_distillation_loss
from paretune.detectors.yolox.detector import Yolo
from paretune.detectors.yolox.distillation import yolox_distillation_loss
from paretune.detectors.yolox.loss import predictions
from paretune.networks.network_files import load_network, save_network
from paretune.training import distillation as distilling
from paretune.training.distillation import (
    DistillationLoss,
    StudentNetwork,
    capture_outputs,
    correlation_loss,
    unwrap_student,
    with_teacher,
)
from paretune.training.extras import TrainingExtras
from paretune.training.settings import Distill, Training
from paretune.training.training_job import TrainingJob
from paretune.training.worker import train_here
from paretune.workflows.check import plugin_tables
from tests_support_compression import CLASSES, SETTINGS, SIZE, MixedDetector, context, model, same_state, state

SQUARE = InputSize(64, 64)
FAMILIES = [
    pytest.param(Yolo(width=0.125, depthwise=False), id="yolo"),
    pytest.param(Ssd(width=0.25, smallest=0.1), id="ssd"),
    pytest.param(FasterRcnn(proposals=8, samples=16, head_width=32), id="faster_rcnn", marks=pytest.mark.slow),
]


class Seeing(MixedDetector):
    """The small detector, with a place to learn from."""

    distill_features: ClassVar[tuple[str, ...]] = ("plain",)


@pytest.fixture
def baseline(tmp_path: Path) -> Path:
    save_network(model(Seeing()).network, tmp_path / "baseline")
    return tmp_path / "baseline"


def around(workdir: Path, baseline: Path | None, **more: Any) -> Context:
    return context(workdir, Seeing(), baseline=baseline, **more)


def pruned(workdir: Path) -> Any:
    return Prune(ratio=0.5).apply(model(Seeing()), context(workdir / "prune", Seeing()))


def truth(*counts: int) -> list[Annotations]:
    random = np.random.default_rng(0)
    corner = [random.uniform(0, 30, (count, 2)) for count in counts]
    boxes = [np.concatenate((c, c + random.uniform(12, 30, c.shape)), 1).astype(np.float32) for c in corner]
    return [Annotations(b, np.arange(len(b)) % len(CLASSES), np.zeros(len(b), bool)) for b in boxes]


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SQUARE.height, SQUARE.width, generator=torch.Generator().manual_seed(0))


def test_divergences_are_kullback_leiblers() -> None:
    mine, wanted = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p, q = (1 / (1 + np.exp(-logits.numpy())) for logits in (wanted, mine))
    by_hand = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    np.testing.assert_allclose(binary_divergence(mine, wanted), by_hand, rtol=1e-9)
    p, q = (np.exp(x / 3) / np.exp(x / 3).sum(-1, keepdims=True) for x in (wanted.numpy(), mine.numpy()))
    np.testing.assert_allclose(divergence(mine, wanted, 3.0), 9 * (p * np.log(p / q)).sum(-1), rtol=1e-9)


def test_maps_are_compared_by_pearsons_correlation() -> None:
    mine, wanted = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(2))
    r = [np.corrcoef(mine[:, c].flatten(), wanted[:, c].flatten())[0, 1] for c in range(4)]
    assert float(correlation_loss([(mine, wanted)])) == pytest.approx(1 - np.mean(r), abs=1e-5)
    assert float(correlation_loss([(7 * wanted - 3, wanted)])) == pytest.approx(0, abs=1e-6)
    assert float(correlation_loss([(-wanted, wanted), (wanted, wanted)])) == pytest.approx(1, abs=1e-5)
    empty = torch.zeros(2, 3, 4, 4, requires_grad=True)
    correlation_loss([(empty, torch.zeros(2, 3, 4, 4))]).backward()
    assert empty.grad is not None
    assert torch.isfinite(empty.grad).all()


def answers(detector: Detector, network: nn.Module, regions: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    with torch.no_grad(), capture_outputs(network, detector.distill_outputs) as seen:
        detector.run_teacher(network, images(), {"regions": regions})
    return seen


@pytest.mark.parametrize("detector", [pytest.param(MixedDetector(), id="any"), *FAMILIES])
def test_the_distillation_loss_is_zero_for_equal_answers_only(detector: Detector) -> None:
    regions = [torch.tensor([[4.0, 4, 40, 40], [10, 20, 30, 60]])] * 2
    one, other = (answers(detector, model(detector, SQUARE, seed).network, regions) for seed in (0, 1))
    same = detector.distillation_loss(one, one, truth(2, 1), SQUARE, 2.0)
    differ = detector.distillation_loss(one, other, truth(2, 1), SQUARE, 2.0)
    assert same.keys() == differ.keys()
    assert all(float(term) == pytest.approx(0, abs=1e-4) for term in same.values())
    assert all(term.shape == () and torch.isfinite(term) and term >= 0 for term in differ.values())
    assert float(sum(differ.values())) > 1e-2


def test_yolos_boxes_and_classes_count_by_the_teachers_objectness() -> None:
    wanted = [torch.zeros(1, 4, 1, 2), torch.tensor([[[[9.0, -9.0]]]]), torch.zeros(1, 2, 1, 2)]
    mine = [tensor.clone() for tensor in wanted]
    mine[0][0, 0, 0, 1] = 1.0  # another box and class in the cell in which the teacher sees nothing
    mine[2][0, :, 0, 1] = 3.0
    nothing = yolox_distillation_loss(mine, wanted, (8,), 1.0)
    assert all(float(term) < 2e-3 for term in nothing.values())
    mine[0][0, 0, 0, 0] = 0.5  # half a cell to the right of the same size: the overlap is a third
    found = yolox_distillation_loss(mine, wanted, (8,), 1.0)
    assert float(found["box"]) == pytest.approx(5 * (1 - (1 / 3) ** 2), abs=5e-3)


def test_ssds_boxes_are_held_to_the_truth_where_the_teachers_are_better() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
    boxes = anchors[:2].numpy() + np.float32(1)
    annotations = [Annotations(boxes, np.array([0, 1]), np.zeros(2, bool))]
    right = CENTRE_WEIGHT * 0.1
    good, bad = right + 0.5, right + 3.0  # errors 0.125 and 2.5 by smooth L1

    def raw(first: float, second: float) -> list[Tensor]:
        offsets = torch.zeros(1, 3, 4)
        offsets[0, :2, :2] = right
        offsets[0, 0, 0], offsets[0, 1, 0] = first, second
        return [torch.zeros(1, 9, 1, 1), offsets.reshape(1, 12, 1, 1)]

    mine = raw(bad, good)
    assert float(ssd_distillation_loss(mine, raw(good, bad), anchors, (3,), annotations, 1.0)["box"]) == pytest.approx(
        1.25
    )
    assert float(ssd_distillation_loss(mine, raw(bad, bad), anchors, (3,), annotations, 1.0)["box"]) == 0


def test_offsets_of_anchors_are_matched_with_their_objectness() -> None:
    objectness = torch.full((1, 2, 2, 3), -20.0)
    objectness[0, 1, 0, 2] = 20.0  # the second anchor of one cell is the only object
    offsets, moved = torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 2, 3)
    moved[0, 4:, 0, 2] = 2.0  # its four offsets: smooth L1 is 1.5 each
    moved[0, :4, 1, 1] = 9.0
    found = frcnn_regions([objectness, moved], [objectness, offsets])
    assert float(found["region"]) == pytest.approx(6.0, abs=1e-4)


@pytest.mark.parametrize("detector", FAMILIES)
def test_one_batch_of_every_family_reaches_the_student_and_not_the_teacher(detector: Detector, tmp_path: Path) -> None:
    teacher = model(detector, SQUARE)
    save_network(teacher.network, tmp_path / "teacher")
    small = Prune(ratio=0.5).apply(teacher, context(tmp_path, detector)).network
    distill = Distill(teacher=str(tmp_path / "teacher"), temperature=2.0)
    student, loss = with_teacher(small.train(), detector, len(CLASSES), SQUARE, SETTINGS, distill, "cpu")
    assert isinstance(student, StudentNetwork)
    assert isinstance(loss, DistillationLoss)
    before = state(loss.teacher)
    terms = loss(student, images(), truth(3, 1))
    own = {name for name in terms if not name.startswith("distill_")}
    assert {f"distill_{name}" for name in own} < terms.keys()  # every family's terms have a counterpart here
    assert "distill_features" in terms
    assert all(term.shape == () and torch.isfinite(term) for term in terms.values())
    sum(terms.values()).backward()
    assert [n for n, p in student.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert any(name.startswith("adapters.") for name, _ in student.named_parameters())
    assert all(parameter.grad is None for parameter in loss.teacher.parameters())
    assert same_state(before, state(loss.teacher))
    assert not loss.teacher.training
    assert unwrap_student(student) is small


def test_yolos_answers_to_larger_images_name_the_same_boxes_in_smaller_ones() -> None:
    """Of an image of twice the sides, a cell gets what the cell at its lower right says: boxes of half the sides."""
    random = torch.Generator().manual_seed(0)
    shapes = [(1, channels, 16 // s, 24 // s) for s in (1, 2, 4) for channels in (4, 1, 2)]
    teachers = [torch.randn(shape, generator=random) for shape in shapes]
    like = [torch.zeros(*maps.shape[:2], maps.shape[2] // 2, maps.shape[3] // 2) for maps in teachers]
    found = Yolo().resized_outputs(teachers, like, (0.5, 0.5))
    assert [maps.shape for maps in found] == [maps.shape for maps in like]
    for level, stride in enumerate((8, 16, 32)):
        height, width = like[3 * level].shape[2:]
        (mine, theirs) = (
            predictions(maps[3 * level : 3 * level + 3], (stride,)).boxes[0].unflatten(0, sides)
            for maps, sides in ((found, (height, width)), (teachers, (2 * height, 2 * width)))
        )
        torch.testing.assert_close(mine, theirs[1::2, 1::2] / 2)
        for kind in (1, 2):  # objectness and classes
            assert torch.equal(found[3 * level + kind], teachers[3 * level + kind][..., 1::2, 1::2])


def test_answers_to_images_of_the_same_size_stay_as_they_are() -> None:
    raw = [torch.randn(maps.shape) for maps in model(Yolo(width=0.125, depthwise=False), SQUARE).network(images())]
    for mine, wanted in zip(Yolo().resized_outputs(raw, raw, (1.0, 1.0)), raw, strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("detector", FAMILIES)
def test_a_teacher_sees_images_at_the_size_it_was_trained_at_if_its_family_can(
    detector: Detector, tmp_path: Path
) -> None:
    network = model(detector, SQUARE).network
    save_network(network, tmp_path)
    (tmp_path / "training.json").write_text(json.dumps({"input_size": "128x96"}))
    distill = Distill(teacher=str(tmp_path))
    student, loss = with_teacher(network.train(), detector, len(CLASSES), SQUARE, SETTINGS, distill, "cpu")
    assert isinstance(loss, DistillationLoss)
    seen: list[tuple[int, ...]] = []
    loss.teacher.get_submodule("backbone").register_forward_hook(lambda _, given, __: seen.append(given[0].shape[2:]))
    terms = loss(student, images(), truth(2, 1))
    assert seen == [(96, 128) if detector.teacher_sees_own_size else (64, 64)]
    assert all(torch.isfinite(term) for term in terms.values())
    loss(student, images()[..., :32], truth(2, 1))  # drawn sizes (multi-scale) are scaled alike
    assert seen[1:] == [(96, 64) if detector.teacher_sees_own_size else (64, 32)]


@pytest.mark.parametrize(("logits", "features"), [(1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_terms_are_weighted_and_left_out_at_nought(logits: float, features: float, baseline: Path) -> None:
    def terms(distill: Distill) -> dict[str, float]:
        student, loss = with_teacher(
            model(Seeing(), seed=1).network.train(), Seeing(), len(CLASSES), SIZE, SETTINGS, distill, "cpu"
        )
        return {name: term.item() for name, term in loss(student, images(), truth(1, 1)).items()}

    plain = terms(Distill(teacher=str(baseline), logits=1.0, features=1.0))
    found = terms(Distill(teacher=str(baseline), logits=logits, features=features))
    wanted = {"distill_answers": logits, "distill_features": features}
    assert {n for n in found if n.startswith("distill_")} == {name for name, weight in wanted.items() if weight}
    for name, weight in wanted.items():
        assert found.get(name, 0) == pytest.approx(weight * plain[name])


def test_it_is_learnt_and_the_adapters_vanish(tmp_path: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terms: list[dict[str, float]] = []
    teach = distilling.DistillationLoss.__call__

    def noting(teaching: DistillationLoss, *arguments: Any) -> dict[str, Tensor]:
        found = teach(teaching, *arguments)
        terms.append({name: float(term.detach()) for name, term in found.items()})
        return found

    monkeypatch.setattr(distilling.DistillationLoss, "__call__", noting)
    small, strong = pruned(tmp_path), Distill(logits=50, features=10)  # the small detector's own loss wants otherwise
    tuned = Finetune(epochs=12, lr_factor=2.5, distill=strong).apply(small, around(tmp_path / "work", baseline))
    for name in ("distill_answers", "distill_features"):
        assert sum(entry[name] for entry in terms[-4:]) < 0.8 * sum(entry[name] for entry in terms[:4]), name
    assert {name: t.shape for name, t in tuned.network.state_dict().items()} == {
        name: t.shape for name, t in small.network.state_dict().items()
    }
    assert type(tuned.network) is type(small.network)
    assert not any(module._forward_hooks for module in tuned.network.modules())
    assert not tuned.network.training
    save_network(tuned.network, tmp_path / "saved")
    load_network(Seeing(), len(CLASSES), tmp_path / "saved")


def test_the_teacher_changes_what_is_learnt_and_the_seed_decides_it(tmp_path: Path, baseline: Path) -> None:
    small = pruned(tmp_path)
    kinds = [None, Distill(), Distill(), Distill(features=2.0)]
    found = [
        state(
            Finetune(epochs=1, distill=distill).apply(small, around(tmp_path / str(number), baseline, seed=4)).network
        )
        for number, distill in enumerate(kinds)
    ]
    assert same_state(found[1], found[2])
    assert not same_state(found[0], found[1])
    assert not same_state(found[1], found[3])


def test_goes_on_where_it_was_killed_to_the_same_weights(tmp_path: Path, baseline: Path) -> None:
    class KilledError(Exception):
        pass

    def killed(line: str) -> None:
        if "epoch 2/" in line:
            raise KilledError

    small, step = pruned(tmp_path), Finetune(epochs=3, distill=Distill())
    whole = step.apply(small, around(tmp_path / "whole", baseline))
    with pytest.raises(KilledError):
        step.apply(small, around(tmp_path / "killed", baseline, progress=killed))
    lines: list[str] = []
    resumed = step.apply(small, around(tmp_path / "killed", baseline, progress=lines.append))
    assert [line.split(":")[0] for line in lines] == ["finetune epoch 2/3", "finetune epoch 3/3"]
    assert same_state(state(whole.network), state(resumed.network))


def test_another_teacher_or_weight_in_the_same_folder_starts_anew(tmp_path: Path, baseline: Path) -> None:
    small = pruned(tmp_path)
    plain = Finetune(epochs=1).apply(small, around(tmp_path / "alone", baseline))
    Finetune(epochs=1, distill=Distill()).apply(small, around(tmp_path / "both", baseline))
    again = Finetune(epochs=1).apply(small, around(tmp_path / "both", baseline))
    assert same_state(state(plain.network), state(again.network))


@pytest.mark.slow
def test_a_teacher_may_be_wider_and_orders_carry_it(tmp_path: Path) -> None:
    shapes, detector = Shapes(train=8, val=4, size="64x64"), Yolo(width=0.125, depthwise=False)
    settings = Training(epochs=1, batch_size=4, lr=1e-3, threads=1, device="cpu")
    classes = len(shapes.open(tmp_path / "cache").classes)
    torch.manual_seed(0)
    wide = Yolo(width=0.25, depthwise=False).build(classes).eval()
    save_network(wide, tmp_path / "teacher")
    plain = TrainingJob(detector, shapes, tmp_path / "cache", SQUARE, settings, tmp_path / "plain")
    distill = Distill(teacher=str(tmp_path / "teacher"))
    told = TrainingJob(
        detector,
        shapes,
        tmp_path / "cache",
        SQUARE,
        settings,
        tmp_path / "taught",
        extras=TrainingExtras(distill=distill),
    )
    assert plain.key.rpartition("-")[2] != told.key.rpartition("-")[2]
    lines: list[str] = []
    train_here(plain)
    train_here(told, lines.append)
    one, other = (load_network(detector, classes, order.folder) for order in (plain, told))
    assert state(one).keys() == state(other).keys()
    assert not same_state(state(one), state(other))
    assert "distill_features" in lines[0]


def test_a_teacher_that_does_not_fit_is_one_clear_line(tmp_path: Path, baseline: Path) -> None:
    step = Finetune(epochs=1, distill=Distill())
    with pytest.raises(UserError, match=r"^distill: there is no baseline to learn from; name .* as `teacher`$"):
        step.apply(model(Seeing()), around(tmp_path / "a", None))
    nowhere = Finetune(epochs=1, distill=Distill(teacher=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match=r"^distill\.teacher: .*nowhere: no network"):
        nowhere.apply(model(Seeing()), around(tmp_path / "b", baseline))
    with pytest.raises(UserError, match=r"^distill\.features: a mixed has no module 'backbone'"):
        step.apply(model(), context(tmp_path / "c", baseline=baseline))
    save_network(Yolo(width=0.125, depthwise=False).build(3), tmp_path / "three")
    detector = Yolo(width=0.125, depthwise=False)
    other = Finetune(epochs=1, distill=Distill(teacher=str(tmp_path / "three")))
    with pytest.raises(UserError, match=r"^distill\.teacher: .*three: not trained for these 2 classes$"):
        other.apply(model(detector, SQUARE), context(tmp_path / "d", detector))


def test_a_distillation_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="logits or features must be above 0"):
        Distill(logits=0, features=0)
    assert Finetune.model_validate({"distill": {}}).distill == Distill()


def test_its_fields_are_searched_logged_and_listed(tmp_path: Path) -> None:
    taught = {"name": "taught", "choices": {"no": None, "yes": {"logits": {"low": 0.5, "high": 2.0}, "features": 3}}}
    space = {"input_size": 64, "runtime": "eager", "steps": [{"finetune": {"distill": taught}}]}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    corners = [
        Recipe.model_validate(sample.value) for sample in checked_space(read_yaml(tmp_path / "space.yaml")).corners()
    ]
    weights = {recipe.params().get("finetune.distill.logits") for recipe in corners}
    assert weights == {None, 0.5, 2.0}
    listed = plugin_tables("step")["step"]["finetune"]["fields"]
    assert {f"distill.{name}" for name in Distill.model_fields} < listed.keys()
    assert all(entry["about"] for entry in listed.values())
