"""Checking a dataset before any compute is spent: every defect, with its file."""

from __future__ import annotations

from typing import Any

from paretune.core.registry import Registry

SURVEYS: Registry[Any] = Registry(
    "survey",
    {
        "coco": "paretune.data.scanned_dataset:survey",
        "labelme": "paretune.data.scanned_dataset:survey",
        "labelstudio": "paretune.data.scanned_dataset:survey",
        "supervisely": "paretune.data.scanned_dataset:survey",
        "via": "paretune.data.scanned_dataset:survey",
        "voc": "paretune.data.scanned_dataset:survey",
        "voc_flat": "paretune.data.scanned_dataset:survey",
        "yolo": "paretune.data.scanned_dataset:survey",
    },
)
"""The lenient reader of each dataset, by the dataset's name; others are opened, and told as far as that goes."""
