"""Datasets: where images and annotations come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from paretune.core.registry import Registry

if TYPE_CHECKING:
    from paretune.data.base import Dataset


class Format(NamedTuple):
    """A format of dataset files: the class that reads it, which also recognises it, and the function that writes it."""

    reader: str | None
    """``module:Class`` of the dataset; None for a layout that the class of another format reads too."""
    writer: str | None = None
    """``module:function`` that writes the annotations; None for a format that is only read."""
    images: str = "{split}"
    """Folder in which the images of a split are written; ``{darknet}`` is its name in Darknet's files."""


_F = "paretune.data.formats"
FORMATS: Mapping[str, Format] = {
    "voc": Format(f"{_F}.voc:Voc", f"{_F}.voc:write_voc", "JPEGImages"),
    "supervisely": Format(f"{_F}.supervisely:Supervisely"),
    "yolo": Format(f"{_F}.yolo:YoloFolder", f"{_F}.yolo:write_yolo", "images/{split}"),
    "darknet": Format(None, f"{_F}.yolo:write_darknet", "obj_{darknet}_data"),
    "labelme": Format(f"{_F}.labelme:Labelme", f"{_F}.labelme:write_labelme"),
    "via": Format(f"{_F}.via:Via", f"{_F}.via:write_via"),
    "labelstudio": Format(f"{_F}.labelstudio:LabelStudio", f"{_F}.labelstudio:write_labelstudio", "images/{split}"),
    "coco": Format(f"{_F}.coco:Coco", f"{_F}.coco:write_coco"),
    "voc_flat": Format(f"{_F}.voc:VocFlat"),
}
"""Every format by its name, in the order in which a folder is asked for its layout: the first that fits is taken."""
WRITTEN_FORMATS = tuple(sorted(name for name, form in FORMATS.items() if form.writer))
DATASETS: Registry[Dataset] = Registry(
    "dataset",
    {
        **{name: form.reader for name, form in FORMATS.items() if form.reader},
        "shapes": "paretune.data.synthetic.shapes:Shapes",
    },
)
