"""Detectors: families of networks that find objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.core.registry import Registry

if TYPE_CHECKING:
    from paretune.detectors.base import Detector

DETECTORS: Registry[Detector] = Registry(
    "detector",
    {
        "yolo": "paretune.detectors.yolox.detector:Yolo",
        "ssd": "paretune.detectors.ssd.detector:Ssd",
        "faster_rcnn": "paretune.detectors.faster_rcnn.detector:FasterRcnn",
    },
)
