"""Losses of torch.nn by name: those that fit are tried and found to fit, and are the ones that run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paretune.core.types import Annotations
from paretune.detectors.base import Losses
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.losses import class_loss, loss_unsupported_reason
from paretune.detectors.ssd.detector import Ssd
from paretune.detectors.ssd.loss import ssd_loss
from paretune.detectors.yolox.detector import Yolo

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
