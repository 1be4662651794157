"""Losses of torch.nn by name: those that fit are tried and found to fit, and are the ones that run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

from paretune.core.types import Annotations, InputSize
from paretune.detectors.base import Losses
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.losses import class_loss, loss_unsupported_reason, on_ignored
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.ssd.loss import assign as ssd_assign
from paretune.detectors.ssd.loss import ssd_loss
from paretune.detectors.yolox.detector import Yolo
from paretune.detectors.yolox.loss import assign, predictions, stack_annotations

FIT = {
    "offsets": {"HuberLoss", "L1Loss", "MSELoss", "SmoothL1Loss"},
    "labels": {"CrossEntropyLoss", "MultiMarginLoss"},
    "certainties": {"BCEWithLogitsLoss", "CrossEntropyLoss", "MultiLabelSoftMarginLoss"},
}


@pytest.mark.parametrize("compared", FIT)
def test_those_that_fit_are_found_by_trying(compared: Any) -> None:
    names = [name for name in dir(nn) if name.endswith("Loss")]
    assert len(names) > 15
    assert {name for name in names if loss_unsupported_reason(name, compared) is None} == FIT[compared]


def test_each_refusal_is_one_line() -> None:
    for name in ("NLLLoss", "CTCLoss", "TripletMarginLoss", "HuberLos", "Linear", "Module", "nothing"):
        for compared in FIT:
            said = loss_unsupported_reason(name, compared)
            assert said
            assert "\n" not in said
    assert "did you mean 'HuberLoss'" in str(loss_unsupported_reason("HuberLos", "offsets"))


def truth() -> list[Annotations]:
    boxes = np.array([[10, 10, 60, 70], [30, 5, 90, 50]], np.float32)
    return [Annotations(boxes, np.array([0, 1]), np.zeros(2, bool))]


def test_yolo_computes_the_loss_that_is_named() -> None:
    logits, wanted = torch.randn(5, 3), torch.rand(5, 3)
    expected = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)
    torch.testing.assert_close(class_loss("BCEWithLogitsLoss", logits, wanted), expected)
    expected = F.multilabel_soft_margin_loss(logits, wanted, reduction="none")
    torch.testing.assert_close(class_loss("MultiLabelSoftMarginLoss", logits, wanted), expected)


def test_ssd_computes_the_losses_that_are_named() -> None:
    torch.manual_seed(0)
    anchors = torch.tensor([[10.0, 10, 60, 70], [30, 5, 90, 50], [0, 0, 20, 20], [50, 50, 90, 90]])
    raw = [torch.randn(1, 3, 4, 1), torch.randn(1, 4, 4, 1)]

    def told(box: str | None, classes: str | None) -> dict[str, Tensor]:
        return ssd_loss(raw, anchors, [1], truth(), Losses(box, classes))

    own = told(None, None)
    torch.testing.assert_close(told("SmoothL1Loss", "CrossEntropyLoss"), own)
    offsets = raw[1][0, :, :2, 0]  # of the two that are responsible, whose boxes are the objects': all are to be 0
    torch.testing.assert_close(told("L1Loss", None)["box"], offsets.abs().sum() / 2)
    assert told(None, "MultiMarginLoss")["class"] != own["class"]


@pytest.mark.slow
def test_faster_rcnn_computes_the_losses_that_are_named() -> None:
    detector = FasterRcnn(variant="mobilenet_v3_large_320_fpn")
    torch.manual_seed(0)
    network = detector.build(2).train()
    images = torch.rand(1, 3, 128, 128)

    def told(box: str | None, classes: str | None) -> dict[str, Tensor]:
        torch.manual_seed(1)  # of the regions that are drawn
        return detector.training_loss(network, images, truth(), Losses(box, classes))

    own = told(None, None)
    torch.testing.assert_close(told(None, "CrossEntropyLoss"), own)
    huber, smooth = told("HuberLoss", None)["box"], told("SmoothL1Loss", None)["box"]
    torch.testing.assert_close(huber, smooth)  # the same with torch's default widths of 1
    assert smooth < own["box"]  # whose width is 1/9


def test_what_each_family_offers() -> None:
    for detector, box in ((Ssd, None), (FasterRcnn, None), (Yolo, "yolo offers iou, giou, diou, ciou")):
        assert detector.loss_unsupported_reason("box_loss", "HuberLoss") == box
        assert detector.loss_unsupported_reason("class_loss", "CrossEntropyLoss") is None
        assert "labels" in str(Ssd.loss_unsupported_reason("class_loss", "BCEWithLogitsLoss"))
        assert detector.loss_unsupported_reason("box_loss", "giou") is None


def marked(seed: int) -> list[Annotations]:
    """Two images of 128x128 with objects and entries to ignore, one of which is a crowd; in the second nothing else."""
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 80, (5, 2))
    boxes = np.concatenate([corner, corner + random.uniform(8, 48, (5, 2))], 1).astype(np.float32)
    crowd = np.array([[20, 30, 120, 110]], np.float32)
    first = Annotations(np.concatenate([boxes, crowd]), random.integers(0, 2, 6), np.array([0, 1, 0, 1, 0, 1], bool))
    return [first, Annotations(crowd, np.array([1]), np.ones(1, bool))]


def half_on_ignored(box: list[float], truth: Annotations) -> bool:
    """The rule, box by box: at least half of its area lies on one entry to ignore."""
    for x1, y1, x2, y2 in truth.boxes[truth.ignore].tolist():
        width, height = min(box[2], x2) - max(box[0], x1), min(box[3], y2) - max(box[1], y1)
        if max(width, 0) * max(height, 0) >= 0.5 * (box[2] - box[0]) * (box[3] - box[1]):
            return True
    return False


def test_what_lies_on_entries_to_ignore_is_found_by_the_share_of_its_own_area() -> None:
    corner = torch.rand(300, 2) * 100
    boxes = torch.cat([corner, corner + 2 + torch.rand(300, 2) * 40], 1)
    for truth in marked(0):
        expected = [half_on_ignored(box, truth) for box in boxes.tolist()]
        assert on_ignored(boxes, truth).tolist() == expected
        assert 0 < sum(expected) < 300
    assert not on_ignored(boxes, without_ignored(marked(0))[0]).any()


def without_ignored(annotations: list[Annotations]) -> list[Annotations]:
    return [Annotations(a.boxes[~a.ignore], a.labels[~a.ignore], a.ignore[~a.ignore]) for a in annotations]


@pytest.mark.parametrize("seed", range(3))
def test_yolo_teaches_cells_on_entries_to_ignore_no_objectness(seed: int) -> None:
    torch.manual_seed(seed)
    raw = [torch.randn(2, maps, 128 // stride, 128 // stride) for stride in (8, 16, 32) for maps in (4, 1, 2)]
    truth = marked(seed)
    terms = Yolo().loss(raw, truth, InputSize(128, 128))
    bare = Yolo().loss(raw, without_ignored(truth), InputSize(128, 128))
    torch.testing.assert_close([terms["box"], terms["class"]], [bare["box"], bare["class"]])
    cells = predictions(raw, (8, 16, 32))
    boxes, labels, real = stack_annotations(without_ignored(truth), raw[0].device)
    given = assign(cells, boxes, labels, real)
    responsible = set(zip(given.image.tolist(), given.cell.tolist(), strict=True))
    left = 0.0
    for image, entry in enumerate(truth):
        for cell, box in enumerate(cells.boxes[image].tolist()):
            wanted = float((image, cell) in responsible)
            if wanted or not half_on_ignored(box, entry):
                logit = cells.objectness[image, cell]
                left += F.binary_cross_entropy_with_logits(logit, torch.tensor(wanted)).item()
    assert terms["objectness"].item() == pytest.approx(left / len(responsible), rel=1e-4)
    assert terms["objectness"] < bare["objectness"]


@pytest.mark.parametrize("classes", [None, "focal"])
def test_ssd_takes_no_hard_negative_from_entries_to_ignore(classes: str | None) -> None:
    torch.manual_seed(0)
    corner = torch.rand(48, 2) * 100
    anchors = torch.cat([corner, corner + 4 + torch.rand(48, 2) * 40], 1)
    raw, truth = [torch.randn(2, 3, 48, 1), torch.randn(2, 4, 48, 1)], marked(1)
    terms = ssd_loss(raw, anchors, [1], truth, Losses(classes=classes))
    numbers, _ = ssd_assign(anchors, without_ignored(truth))
    assert torch.equal(ssd_assign(anchors, truth)[0], numbers)
    total = torch.zeros(())
    for image, entry in enumerate(truth):
        logits = raw[0][image, :, :, 0].T
        wrong = F.cross_entropy(logits, numbers[image], reduction="none")
        if classes == "focal":
            wrong = (1 - (-wrong).exp()) ** 2 * wrong
        objects = [i for i in range(48) if numbers[image, i]]
        others = [i for i in range(48) if not numbers[image, i] and not half_on_ignored(anchors[i].tolist(), entry)]
        if classes is None:
            others = sorted(others, key=lambda i: -float(wrong[i]))[: 3 * len(objects)]
        total += wrong[objects + others].sum()
    torch.testing.assert_close(terms["class"], total / (numbers > 0).sum())
    torch.testing.assert_close(terms["box"], ssd_loss(raw, anchors, [1], without_ignored(truth))["box"])


def test_faster_rcnn_samples_nothing_that_lies_on_entries_to_ignore() -> None:
    network = FasterRcnn(variant="mobilenet_v3_large_320_fpn").build(2).train()
    truth = marked(2)
    targets = [
        {"boxes": torch.from_numpy(a.boxes), "labels": torch.from_numpy(a.labels) + 1, "truth": whole}
        for a, whole in zip(without_ignored(truth), truth, strict=True)
    ]
    corner = torch.rand(2, 200, 2) * 100
    boxes = list(torch.cat([corner, corner + 4 + torch.rand(2, 200, 2) * 40], 2))
    heads, parents = network.roi_heads, (RegionProposalNetwork, RoIHeads)
    heads.select_training_samples([b.clone() for b in boxes], targets)
    plain = [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets]
    given = [t["boxes"] for t in plain], [t["labels"] for t in plain]
    first, _ = network.rpn.assign_targets_to_anchors(boxes, targets)
    second = heads.assign_targets_to_proposals(boxes, *given)[1]
    whole_first, _ = parents[0].assign_targets_to_anchors(network.rpn, boxes, plain)
    whole_second = parents[1].assign_targets_to_proposals(heads, boxes, *given)[1]
    for found, whole in ((first, whole_first), (second, whole_second)):
        for labels, own, places, entry in zip(found, whole, boxes, truth, strict=True):
            pairs = zip(own.tolist(), places.tolist(), strict=True)
            assert labels.tolist() == [-1 if not n and half_on_ignored(box, entry) else n for n, box in pairs]
            assert (labels != own).any()


@pytest.mark.parametrize("detector", [Yolo(), Ssd(), FasterRcnn()])
def test_an_image_that_is_ignored_as_a_whole_teaches_nothing(detector: Any) -> None:
    torch.manual_seed(0)
    network = detector.build(2).train()
    whole = Annotations(np.array([[-999, -999, 999, 999]], np.float32), np.zeros(1, np.int64), np.ones(1, bool))
    terms = detector.training_loss(network, torch.rand(2, 3, 128, 128), [whole] * 2)
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(terms, 0.0)
    sum(terms.values()).backward()


def test_a_detector_that_knows_nothing_of_entries_to_ignore_gets_none() -> None:
    class Plain(Yolo):
        leaves_out_ignored = False

        def loss(self, raw: Any, annotations: Any, size: Any, losses: Any = None) -> dict[str, Tensor]:
            assert not any(entry.ignore.any() for entry in annotations)
            return {"objects": torch.tensor(float(sum(len(entry.labels) for entry in annotations)))}

    assert Plain().training_loss(lambda images: (), torch.rand(2, 3, 128, 128), marked(0)) == {"objects": 3}
