"""SSD's networks, built from torchvision's parts: its parameters keep torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, vgg16
from torchvision.models.detection import _utils
from torchvision.models.detection.ssd import SSDHead, _vgg_extractor
from torchvision.models.detection.ssdlite import SSDLiteHead, _mobilenet_extractor

_EVERYTHING = 6
"""Trainable stages of either backbone: all of them, or one more than the smaller one has."""


class SsdNetwork(nn.Module):
    """Backbone and head; forward ends at the predictor convolutions."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return class logits and box offsets of each level, (B, K·(C + 1), h, w) and (B, K·4, h, w)."""
        raw: list[Tensor] = []
        for level, features in enumerate(self.backbone(images).values()):
            raw += [predictors[level](features) for predictors in self.predictors()]
        return tuple(raw)

    def predictors(self) -> tuple[Any, Any]:
        """Return the predictors of classes and of boxes, one of each for every level."""
        return self.head.classification_head.module_list, self.head.regression_head.module_list  # type: ignore[union-attr]


def ssdlite(
    num_classes: int,
    boxes_per_cell: Sequence[int],
    width: float,
    *,
    reduced_tail: bool = True,
    classifier: dict[str, Tensor] | None = None,
) -> SsdNetwork:
    """Build SSDLite on MobileNetV3 large. Howard et al., Searching for MobileNetV3 (arXiv:1905.02244), section 6.3.

    Args:
        num_classes: without the background.
        boxes_per_cell: default boxes of each level.
        width: channels of the backbone, as a multiple.
        reduced_tail: half the channels in the backbone's last stage, as the paper has it; classifiers have all.
        classifier: weights of torchvision's classifier for the backbone.

    Weights are drawn by He et al. (arXiv:1502.01852), and batch norms follow the batches ten times as fast as
    torchvision's do: with its defaults the network hardly learns from scratch.
    """
    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1)
    features = mobilenet_v3_large(weights=None, norm_layer=norm, reduced_tail=reduced_tail, width_mult=width)
    backbone = _mobilenet_extractor(features, _EVERYTHING, norm)
    head = SSDLiteHead(_channels(backbone, 320), list(boxes_per_cell), num_classes + 1, norm)
    network = SsdNetwork(backbone, head)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for predictors in network.predictors():
        for predictor in predictors:
            nn.init.normal_(predictor[-1].weight, std=0.03)
    if classifier is not None:
        features.load_state_dict(classifier)  # the backbone is made of its modules
    return network


def ssd300(
    num_classes: int, boxes_per_cell: Sequence[int], *, classifier: dict[str, Tensor] | None = None
) -> SsdNetwork:
    """Build SSD on VGG-16, reduced and atrous as in the paper; arguments as of ``ssdlite``."""
    features = vgg16(weights=None)
    if classifier is not None:  # torchvision's file holds the convolutions only, the rest of it is not a number
        features.features.load_state_dict(
            {name.removeprefix("features."): v for name, v in classifier.items() if name.startswith("features.")}
        )
    backbone = _vgg_extractor(features, False, _EVERYTHING - 1)
    return SsdNetwork(backbone, SSDHead(_channels(backbone, 300), list(boxes_per_cell), num_classes + 1))


def _channels(backbone: nn.Module, side: int) -> list[int]:
    with torch.random.fork_rng(devices=[]):
        return list(_utils.retrieve_out_channels(backbone, (side, side)))
