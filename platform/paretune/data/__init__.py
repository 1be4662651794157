"""Datasets: where images and annotations come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.registry import Registry

if TYPE_CHECKING:
    from paretune.data.base import Dataset

DATASETS: Registry[Dataset] = Registry(
    "dataset",
    {
        "coco": "paretune.data.coco:Coco",
        "shapes": "paretune.data.shapes:Shapes",
        "voc": "paretune.data.voc:Voc",
        "voc_flat": "paretune.data.vocflat:VocFlat",
        "yolo": "paretune.data.yolo:Yolo",
    },
)
