"""Pictures of a training: its curves, and some images with true and detected boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.types import SURE, Annotations, Detections, Image
from paretune.reports.figures import FOUND, TRUE, draw_box, new_figure, plain_axes, save_png

COLUMNS = 4
"""Images in a row."""


def curves_png(entries: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw loss terms, accuracy, learning rate and speed over the epochs.

    Args:
        entries: the epochs as in ``training.json``.
        file: the PNG file.
    """
    figure = new_figure(10, 6)
    numbers = [entry["number"] for entry in entries]
    grid = figure.subplots(2, 2, sharex=True)
    for name in entries[0]["losses"] if entries else ():
        grid[0, 0].plot(numbers, [entry["losses"][name] for entry in entries], label=name, marker=".")
    grid[0, 0].set(title="training loss, mean of the epoch", yscale="log")
    if entries:
        grid[0, 0].legend(fontsize=8)
    scored = [(entry["number"], entry["map"]) for entry in entries if entry.get("map") is not None]
    if scored:
        grid[0, 1].plot(*zip(*scored, strict=True), marker=".", c=TRUE)
    else:
        note = {"ha": "center", "va": "center", "transform": grid[0, 1].transAxes}
        grid[0, 1].text(0.5, 0.5, "not validated while training", **note)
    grid[0, 1].set(title="map on the validation split")
    grid[1, 0].plot(numbers, [entry["lr"] for entry in entries], marker=".", c="#b06000")
    grid[1, 0].set(title="learning rate at the epoch's end", xlabel="epoch")
    grid[1, 1].plot(numbers, [entry["images_per_second"] for entry in entries], marker=".", c="#5f6368")
    grid[1, 1].set(title="images per second", xlabel="epoch", ylim=(0, None))
    for axes in grid.flat:
        plain_axes(axes)
    save_png(figure, file)


def samples_png(
    images: Sequence[Image],
    truths: Sequence[Annotations],
    found: Sequence[Detections],
    classes: Sequence[str],
    file: Path,
) -> None:
    """Draw images with their true boxes, and with the detected boxes whose score is at least ``SURE``, labelled.

    Args:
        images: RGB uint8 (H, W, 3).
        truths: true boxes of each image.
        found: detections in each image.
        classes: names by label.
        file: the PNG file.
    """
    rows = -(-len(images) // COLUMNS) or 1
    figure = new_figure(3.2 * COLUMNS, 2.8 * rows + 0.4)
    figure.suptitle(f"true boxes green; found ones red, from a score of {SURE}", fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, truth, detections in zip(grid.flat, images, truths, found, strict=False):
        axes.imshow(image)
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            draw_box(axes, box, TRUE, classes[label], below=True)
        for box, label, score in zip(detections.boxes, detections.labels, detections.scores, strict=True):
            if score >= SURE:
                draw_box(axes, box, FOUND, f"{classes[label]} {score:.2f}")
    save_png(figure, file)
