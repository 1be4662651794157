"""Checking a dataset before any compute is spent: every defect, with its file."""

from __future__ import annotations

from typing import Any

from paretune.registry import Registry

SURVEYS: Registry[Any] = Registry(
    "survey",
    {
        "coco": "paretune.data.surveyed:survey",
        "labelme": "paretune.data.surveyed:survey",
        "labelstudio": "paretune.data.surveyed:survey",
        "supervisely": "paretune.data.surveyed:survey",
        "via": "paretune.data.surveyed:survey",
        "voc": "paretune.data.surveyed:survey",
        "voc_flat": "paretune.data.surveyed:survey",
        "yolo": "paretune.data.surveyed:survey",
    },
)
"""The lenient reader of each dataset, by the dataset's name; others are opened, and told as far as that goes."""
