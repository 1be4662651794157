"""A detector as its own library runs it: torch in eager mode, with the library's postprocessing.

Pictures are resized as ours are, so that both find the same boxes. torchvision's SSD and Faster R-CNN are its own
code; YOLOX's postprocessing is what its demo does, in torch: decode every cell, take the best class, suppress.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD

from paretune.core.target import Target
from paretune.core.types import Detections, Floats, Image, Thresholds
from paretune.data.preprocess import Placement
from paretune.networks.network_files import load_network
from paretune.runtimes.predictor import Predictor, load_predictor

NAME = "beside-library"
"""An artefact in a folder of this name is run so."""
STRIDES = (8, 16, 32)
"""Of YOLOX's levels."""


def load(folder: Path, target: Target) -> Any:
    """Load an artefact as Paretune runs it, or as its library does."""
    predictor = load_predictor(folder, target)
    if folder.name != NAME:
        return predictor
    return Library(predictor, load_network(predictor.detector, len(predictor.artefact.classes), folder))


class Detect(Protocol):
    """What is the library's: (1, 3, H, W) → boxes (N, 4) in pixels of the input, scores (N,), labels (N,) from 0."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detect on one image."""
        ...


class Library:
    """The three stages, as ``Predictor`` has them; suppression is part of the library's core."""

    def __init__(self, predictor: Predictor, network: nn.Module) -> None:
        self._predictor = predictor
        self.facts = predictor.facts
        name = next(iter(predictor.artefact.detector))
        self._detect: Detect = {"ssd": _Ssd, "faster_rcnn": _FasterRcnn, "yolo": _Yolo}[name](predictor, network.eval())

    def preprocess(self, image: Image) -> tuple[Floats, Placement]:
        """As ours."""
        return self._predictor.preprocess(image)

    def core(self, batch: Floats) -> tuple[Tensor, Tensor, Tensor]:
        """Image → boxes in pixels of the input."""
        with torch.inference_mode():
            return self._detect(torch.from_numpy(batch))

    def postprocess(self, raw: tuple[Tensor, Tensor, Tensor], placement: Placement) -> Detections:
        """Boxes in pixels of the image."""
        boxes, scores, labels = (part.numpy() for part in raw)
        return Detections(placement.to_image(boxes), scores, labels)


def _torchvisions(found: Sequence[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    return found[0]["boxes"], found[0]["scores"], found[0]["labels"] - 1


class _Ssd:
    def __init__(self, predictor: Predictor, network: Any) -> None:
        detector: Any = predictor.detector
        thresholds = predictor.artefact.thresholds
        if detector.variant == "ssd300_vgg16":
            ratios, scales = [[2], [2, 3], [2, 3], [2, 3], [2], [2]], [0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05]
            boxes = DefaultBoxGenerator(ratios, scales=scales, steps=[8, 16, 32, 64, 100, 300])
        else:
            sides = {"min_ratio": detector.smallest, "max_ratio": detector.largest}
            boxes = DefaultBoxGenerator([[2, 3]] * 6, **sides)
        size = predictor.artefact.input_size
        self._model = SSD(
            network.backbone,
            boxes,
            (size.height, size.width),
            len(predictor.artefact.classes) + 1,
            head=network.head,
            score_thresh=thresholds.score,
            nms_thresh=thresholds.iou,
            detections_per_img=thresholds.detections,
            topk_candidates=thresholds.candidates,
        ).eval()

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model, shape = self._model, (images.shape[2], images.shape[3])
        features = list(model.backbone(images).values())
        anchors = model.anchor_generator(ImageList(images, [shape]), features)
        return _torchvisions(model.postprocess_detections(model.head(features), anchors, [shape]))


class _FasterRcnn:
    def __init__(self, predictor: Predictor, network: Any) -> None:
        detector: Any = predictor.detector
        thresholds: Thresholds = predictor.artefact.thresholds
        self._network, rpn, heads = network, network.rpn, network.roi_heads
        rpn._pre_nms_top_n["testing"] = rpn._post_nms_top_n["testing"] = detector.proposals
        heads.score_thresh, heads.nms_thresh = thresholds.score, thresholds.iou
        heads.detections_per_img = thresholds.detections

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        network, shape = self._network, (images.shape[2], images.shape[3])
        features: OrderedDict[str, Tensor] = network.backbone(images)
        regions, _ = network.rpn(ImageList(images, [shape]), features)
        return _torchvisions(network.roi_heads(features, regions, [shape])[0])


class _Yolo:
    def __init__(self, predictor: Predictor, network: nn.Module) -> None:
        self._network, self._thresholds = network, predictor.artefact.thresholds

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw, rows = self._network(images), []
        for level, stride in enumerate(STRIDES):
            box, objectness, classes = raw[3 * level : 3 * level + 3]
            height, width = box.shape[2:]
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centres = (box[:, :2] + torch.stack((x, y))) * stride
            sides = box[:, 2:].exp() * stride
            parts = (centres - sides / 2, centres + sides / 2, objectness.sigmoid(), classes.sigmoid())
            rows.append(torch.cat(parts, 1).flatten(2))
        every = torch.cat(rows, 2)[0].T
        confidence, labels = every[:, 5:].max(1)
        scores = every[:, 4] * confidence
        sure = scores >= self._thresholds.score
        boxes, scores, labels = every[sure, :4], scores[sure], labels[sure]
        kept = torchvision.ops.batched_nms(boxes, scores, labels, self._thresholds.iou)[: self._thresholds.detections]
        return boxes[kept], scores[kept], labels[kept]
