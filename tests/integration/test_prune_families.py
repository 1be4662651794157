"""Every criterion on the larger families: pruned is dense with channels at zero, and still trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paretune.compression.prune.step import Prune
from paretune.core.library_names import IMPORTANCES, SENSITIVITIES
from paretune.core.types import Annotations, InputSize
from paretune.detectors.faster_rcnn.detector import FasterRcnn
from paretune.detectors.ssd.detector import Ssd
from paretune.networks.network_files import count
from tests_support_compression import context, model, with_channels_at_zero, with_different_biases

LITE, VGG = Ssd(width=0.5), Ssd(variant="ssd300_vgg16")
SMALL = FasterRcnn(proposals=20, samples=32, head_width=64, min_proposal_score=0.0)
ALL = (*IMPORTANCES, *SENSITIVITIES)
SHORT = {name: pytest.mark.slow if name in {"l1", *SENSITIVITIES} else pytest.mark.full for name in ALL}
"""Faster R-CNN in `make test`: a criterion of the weights, and those that need its loss."""
SHAPE = {LITE: InputSize(96, 64), VGG: InputSize(300, 300), SMALL: InputSize(128, 96)}
TRUTH = [Annotations(np.array([[10, 12, 60, 50]], np.float32), np.array([k]), np.zeros(1, bool)) for k in (0, 1)]


def predictions(detector: Ssd | FasterRcnn, network: nn.Module) -> list[Tensor]:
    """All that the predictors say to a picture, Faster R-CNN's second ones of two fixed regions."""
    torch.manual_seed(0)
    size = SHAPE[detector]
    images = torch.rand(1, 3, size.height, size.width)
    with torch.no_grad():
        if isinstance(detector, Ssd):
            return list(network(images))
        features = network.backbone(images)
        objectness, offsets = network.rpn.head(list(features.values()))
        regions = [torch.tensor([[4.0, 4, 90, 70], [20, 10, 60, 60]])]
        return [*objectness, *offsets, *network.box(network.roi_heads.box_roi_pool(features, regions, [(96, 128)]))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("detector", "importance"),
    [
        *[pytest.param(LITE, name, marks=pytest.mark.slow, id=f"lite-{name}") for name in ALL],
        *[pytest.param(SMALL, name, marks=SHORT[name], id=f"faster_rcnn-{name}") for name in ALL],
        *[pytest.param(VGG, name, marks=pytest.mark.full, id=f"vgg-{name}") for name in ALL if name != "bn_scale"],
    ],
)
def test_every_criterion_is_exact(detector: Ssd | FasterRcnn, importance: str, tmp_path: Path) -> None:
    size = SHAPE[detector]
    dense = model(detector, size)
    with_different_biases(dense.network)
    step = Prune.model_validate({"ratio": 0.4, "importance": importance, "round_to": 4, "images": 2, "scope": "stage"})
    pruned = step.apply(dense, context(tmp_path, detector))
    reference, removed = with_channels_at_zero(dense.network, pruned.network)
    assert removed > 0
    assert (pruned.params, pruned.flops) == count(pruned.network, size)
    assert pruned.params < dense.params
    assert pruned.flops < dense.flops
    for wanted, got in zip(predictions(detector, reference), predictions(detector, pruned.network), strict=True):
        assert wanted.shape == got.shape
        assert (wanted - got).abs().max() <= 1e-5 * wanted.abs().max()
    images = torch.rand(2, 3, size.height, size.width)
    sum(detector.training_loss(pruned.network.train(), images, TRUTH).values()).backward()
    gradients = [parameter.grad for parameter in pruned.network.parameters()]
    assert any(gradient is not None and gradient.any() for gradient in gradients)
    assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_both_layers_of_the_box_head_are_pruned(tmp_path: Path) -> None:
    """fc6 reads the flattened maps: a channel of the pyramid is 49 of its inputs."""
    dense = model(SMALL, SHAPE[SMALL])
    network = Prune(ratio=0.5).apply(dense, context(tmp_path, SMALL)).network
    head, predictor = network.roi_heads.box_head, network.roi_heads.box_predictor
    channels = network.backbone.fpn.inner_blocks[0][0].out_channels
    assert (head.fc6.in_features, head.fc6.out_features) == (channels * 49, 32)
    assert (head.fc7.in_features, head.fc7.out_features) == (32, 32)
    assert predictor.cls_score.in_features == predictor.bbox_pred.in_features == 32
    assert channels == 128
