"""Detectors: families of networks that find objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.registry import Registry

if TYPE_CHECKING:
    from paretune.detectors.base import Detector

DETECTORS: Registry[Detector] = Registry(
    "detector",
    {
        "yolo": "paretune.detectors.yolo:Yolo",
        "ssd": "paretune.detectors.ssd:Ssd",
        "faster_rcnn": "paretune.detectors.faster_rcnn:FasterRcnn",
    },
)
