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
        "labelme": "paretune.data.labelme:Labelme",
        "labelstudio": "paretune.data.labelstudio:LabelStudio",
        "shapes": "paretune.data.shapes:Shapes",
        "supervisely": "paretune.data.supervisely:Supervisely",
        "via": "paretune.data.via:Via",
        "voc": "paretune.data.voc:Voc",
        "voc_flat": "paretune.data.vocflat:VocFlat",
        "yolo": "paretune.data.yolo:Yolo",
    },
)
