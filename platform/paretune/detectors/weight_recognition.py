"""Recognising the network of a state dict by the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_MARKS: tuple[tuple[str, str], ...] = (
    (r"roi_heads\.mask_predictor\.", "torchvision's Mask R-CNN"),
    (r"roi_heads\.keypoint_predictor\.", "torchvision's Keypoint R-CNN"),
    (r"roi_heads\.box_predictor\.cls_score\.", "faster_rcnn"),
    (r"head\.regression_head\.bbox_ctrness\.", "torchvision's FCOS"),
    (r"head\.classification_head\.cls_logits\.", "torchvision's RetinaNet"),
    (r"head\.classification_head\.module_list\.0\.1\.", "ssdlite"),
    (r"head\.classification_head\.module_list\.0\.", "ssd"),
    (r"head\.cls_preds\.0\.", "yolox"),
    (r"(\d+\.)?model\.\d+\.|\d+\.(conv|cv\d)\.", "a YOLO of another program"),
    (r"transformer\.(encoder|decoder)\.|class_embed\.", "a DETR"),
    (r"bbox_head\.|rpn_head\.|roi_head\.", "a detector of MMDetection"),
    (r"proposal_generator\.", "a detector of Detectron2"),
    (r"(fc|classifier(\.\d+)?)\.weight$", "a classifier"),
)
"""Beginning of a tensor's name → what has one, the first that fits."""
_YOLOX = {16: "nano", 24: "tiny", 32: "s", 48: "m", 64: "l", 80: "x"}
"""Channels after YOLOX's first layer → its variant."""


def seems_to_be(state: Mapping[str, Tensor]) -> tuple[str | None, str | None]:
    """Return what a state dict seems to be of, in words, and as ``detector variant`` where it is one of ours.

    Either is None where it is not known.
    """
    what = next((what for mark, what in _MARKS if any(re.match(mark, name) for name in state)), None)
    if what not in _OURS:
        return what, None
    recognised = _OURS[what](state)
    if " " in recognised and recognised.split()[0] in ("faster_rcnn", "ssd", "yolo"):
        return "{}, variant {}".format(*recognised.split()), recognised
    return recognised, None


def _faster_rcnn(state: Mapping[str, Tensor]) -> str:
    if any(name.startswith("backbone.body.layer1.") for name in state):
        blocks = len({name.split(".")[3] for name in state if name.startswith("backbone.body.layer3.")})
        depth = {2: "18", 6: "50", 23: "101", 36: "152"}.get(blocks, f" with {blocks} blocks in its third stage")
        if depth != "50" or "backbone.body.layer1.0.conv3.weight" not in state:
            return f"a Faster R-CNN on ResNet{depth}"
        second = any(name.startswith("rpn.head.conv.1.") for name in state)
        return f"faster_rcnn resnet50_fpn{'_v2' if second else ''}"
    if any(name.startswith("backbone.body.") for name in state) and any("fpn" in name for name in state):
        return "faster_rcnn mobilenet_v3_large_fpn"
    return "a Faster R-CNN on another backbone"


def _ssd(state: Mapping[str, Tensor]) -> str:
    vgg = "backbone.scale_weight" in state
    levels = {name.split(".")[3] for name in state if name.startswith("head.classification_head.module_list.")}
    if vgg and len(levels) == 6:
        return "ssd ssd300_vgg16"
    return f"an SSD with {len(levels)} levels on {'VGG-16' if vgg else 'another backbone'}"


def _ssdlite(state: Mapping[str, Tensor]) -> str:  # noqa: ARG001 - there is one only
    return "ssd ssdlite320_mobilenet_v3_large"


def _yolox(state: Mapping[str, Tensor]) -> str:
    first = state.get("backbone.backbone.stem.conv.conv.weight")
    variant = None if first is None else _YOLOX.get(len(first))
    return f"yolo {variant}" if variant else "a YOLOX of another width"


_OURS = {"faster_rcnn": _faster_rcnn, "ssd": _ssd, "ssdlite": _ssdlite, "yolox": _yolox}
