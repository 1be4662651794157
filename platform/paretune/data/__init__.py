"""Datasets: where images and annotations come from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paretune.core.registry import Registry

if TYPE_CHECKING:
    from paretune.data.base import Dataset

DATASETS: Registry[Dataset] = Registry(
    "dataset",
    {
        "coco": "paretune.data.formats.coco:Coco",
        "labelme": "paretune.data.formats.labelme:Labelme",
        "labelstudio": "paretune.data.formats.labelstudio:LabelStudio",
        "shapes": "paretune.data.synthetic.shapes:Shapes",
        "supervisely": "paretune.data.formats.supervisely:Supervisely",
        "via": "paretune.data.formats.via:Via",
        "voc": "paretune.data.formats.voc:Voc",
        "voc_flat": "paretune.data.formats.voc_flat:VocFlat",
        "yolo": "paretune.data.formats.yolo:YoloFolder",
    },
)
