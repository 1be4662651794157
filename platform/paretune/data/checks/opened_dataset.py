"""A dataset without a lenient reader of its own: opened as for training."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from paretune.core.errors import UserError
from paretune.data.base import Dataset
from paretune.data.raw_annotations import Finding, RawBox, RawImage, Survey


def survey(dataset: Dataset, cache: Path) -> Survey:
    """Open the dataset; what it refuses becomes findings, one for each line.

    Args:
        dataset: any row of the table.
        cache: where it may write what it generates.
    """
    try:
        data = dataset.open(cache)
    except UserError as error:
        lines = str(error).splitlines()
        return Survey(
            dataset.name, [], [Finding("unreadable-annotation", dataset.name, "", line) for line in lines], []
        )
    images, pixels = [], {}
    for name, split in data.splits.items():
        for index, image_id in enumerate(split.ids):
            truth = split.annotations(index)
            file = Path(f"{dataset.name}/{name}/{image_id}")
            boxes = tuple(
                RawBox(data.classes[label], (float(x1), float(y1), float(x2), float(y2)), f"object {number}")
                for number, (label, (x1, y1, x2, y2)) in enumerate(zip(truth.labels, truth.boxes, strict=True), start=1)
            )
            images.append(RawImage(file, file, boxes, split.size(index), splits=(name,)))
            pixels[file] = partial(split.image, index)
    return Survey(dataset.name, images, [], list(data.splits), data.classes, pixels)
