"""Pictures of a training: its curves, and what the network finds in some images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.types import SURE, Annotations, Detections, Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUE, FOUND = "#34a853", "#d93025"
COLUMNS = 4


def curves_png(entries: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw loss terms, accuracy, learning rate and speed over the epochs.

    Args:
        entries: as ``training.json`` has them.
        file: the picture.
    """
    figure = _figure(10, 6)
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
        axes.grid(visible=True, color="#e3e6ea")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file)


def samples_png(
    images: Sequence[Image],
    truths: Sequence[Annotations],
    found: Sequence[Detections],
    classes: Sequence[str],
    file: Path,
) -> None:
    """Draw images with the true boxes and the found ones that are sure enough, labelled."""
    rows = -(-len(images) // COLUMNS) or 1
    figure = _figure(3.2 * COLUMNS, 2.8 * rows + 0.4)
    figure.suptitle(f"true boxes green; found ones red, from a score of {SURE}", fontsize=11, x=0.01, ha="left")
    grid = figure.subplots(rows, COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, truth, detections in zip(grid.flat, images, truths, found, strict=False):
        axes.imshow(image)
        for box, label in zip(truth.boxes, truth.labels, strict=True):
            _box(axes, box, TRUE, classes[label], below=True)
        for box, label, score in zip(detections.boxes, detections.labels, detections.scores, strict=True):
            if score >= SURE:
                _box(axes, box, FOUND, f"{classes[label]} {score:.2f}", below=False)
    figure.savefig(file)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _box(axes: Any, box: Any, colour: str, text: str, *, below: bool) -> None:
    from matplotlib.patches import Rectangle

    x1, y1, x2, y2 = (float(value) for value in box)
    axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=colour, lw=1.2))
    place = {"va": "top", "y": y2} if below else {"va": "bottom", "y": y1}
    axes.text(x=x1, s=text, c=colour, fontsize=6, clip_on=True, **place)
