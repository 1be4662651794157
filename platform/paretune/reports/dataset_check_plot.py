"""The check of a dataset as one picture: classes, box sizes, and some images with their boxes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.types import Image
from paretune.data.box_checks import in_pixels
from paretune.data.checks.report import DatasetReport
from paretune.data.image_io import read_image
from paretune.data.raw_annotations import RawImage, printable
from paretune.reports.figures import draw_box, label, new_figure, save_png

MOST_CLASSES = 20
"""Classes that have a bar: the most frequent ones."""
SAMPLES = 8
"""Images that are shown."""
_LONGEST = 480
"""Pixels of the longer side of a sample in the picture."""


def draw(report: DatasetReport, file: Path) -> None:
    """Draw the report of a check into a PNG file.

    Raises:
        UserError: the file cannot be written.
    """
    figure = new_figure(13, 10, dpi=100)
    halves: Any = figure.subfigures(2, 1, height_ratios=(2, 3))
    top, bottom = halves
    left, right = top.subplots(1, 2)
    colours = _colours(list(report.classes))
    _draw_classes(left, report, colours)
    _draw_sizes(right, report)
    axes = bottom.subplots(2, SAMPLES // 2).flat
    for ax in axes:
        ax.set_axis_off()
    for ax, image in zip(bottom.axes, _samples(report), strict=False):
        _draw_sample(ax, report, image, colours)
    save_png(figure, file, "--picture ")


def _draw_classes(ax: Any, report: DatasetReport, colours: dict[str, Any]) -> None:
    shown = Counter(report.classes).most_common(MOST_CLASSES)[::-1]
    names = [label(printable(name)) for name, _ in shown]
    bars = ax.barh(range(len(shown)), [count for _, count in shown], color=[colours[name] for name, _ in shown])
    ax.set_yticks(range(len(shown)), names)
    ax.bar_label(bars, padding=3)
    ax.margins(x=0.12)
    rest = len(report.classes) - len(shown)
    ax.set_title("boxes of each class" + (f" ({rest} rarer ones not shown)" if rest else ""))


def _draw_sizes(ax: Any, report: DatasetReport) -> None:
    from matplotlib.ticker import FormatStrFormatter

    sides = []
    for image in report.survey.images:
        size = report.infos[image.file].size or image.annotated_size
        for box in image.boxes:
            x1, y1, x2, y2 = in_pixels(image, box, size) or (math.nan,) * 4
            if (area := max(x2 - x1, 0) * max(y2 - y1, 0)) > 0 and x2 > x1:
                sides.append(math.sqrt(area))
    ax.set_title("box sizes: √area in pixels of the image")
    ax.set_ylabel("boxes")
    if not sides:
        ax.text(0.5, 0.5, "no boxes", ha="center", transform=ax.transAxes)
        return
    low, high = max(min(sides), 0.5), max(*sides, 1.0)
    ax.hist(sides, bins=np.geomspace(low * 0.999, high * 1.001, 40), color="tab:gray")
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.xaxis.set_minor_formatter(FormatStrFormatter("%g"))
    ax.tick_params(axis="x", which="minor", labelsize=7)
    for limit, name in ((32, "small | medium"), (96, "medium | large")):  # COCO's ranges
        if low < limit < high:
            ax.axvline(limit, color="0.4", linestyle="--", linewidth=1)
            ax.text(
                limit, 0.99, name, rotation=90, va="top", ha="right", fontsize=8, transform=ax.get_xaxis_transform()
            )


def _samples(report: DatasetReport) -> Sequence[RawImage]:
    """Return readable images with boxes, evenly spread over all of them."""
    good = [image for image in report.survey.images if image.boxes and report.infos[image.file].size]
    chosen = np.linspace(0, len(good) - 1, min(SAMPLES, len(good))).round().astype(int)
    return [good[index] for index in chosen]


def _draw_sample(ax: Any, report: DatasetReport, image: RawImage, colours: dict[str, Any]) -> None:
    make = report.survey.pixels.get(image.file)
    pixels, ratio = _shrunk(make() if make else read_image(image.file, image.annotated_size))
    ax.imshow(pixels)
    for box in image.boxes:
        x1, y1, x2, y2 = (
            ratio * edge for edge in in_pixels(image, box, report.infos[image.file].size) or (math.nan,) * 4
        )
        if x2 > x1 and y2 > y1:  # neither inverted nor NaN
            # pixel k spans k to k + 1 in boxes, k - 0.5 to k + 0.5 in matplotlib's images
            draw_box(ax, (x1 - 0.5, y1 - 0.5, x2 - 0.5, y2 - 0.5), colours[box.name])
    split = f" ({', '.join(image.splits)})" if image.splits else ""
    names = ", ".join(f"{name} {count}" for name, count in Counter(box.name for box in image.boxes).most_common(3))
    title = f"{label(printable(image.file.name) + split, 80)}\n{label(printable(names), 60)}"
    ax.set_title(title, fontsize=8)


def _shrunk(image: Image) -> tuple[Image, float]:
    import cv2

    ratio = min(1.0, _LONGEST / max(image.shape[:2]))
    if ratio == 1:
        return image, ratio
    size = (max(1, round(image.shape[1] * ratio)), max(1, round(image.shape[0] * ratio)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), ratio


def _colours(names: Sequence[str]) -> dict[str, Any]:
    from matplotlib import colormaps

    table = colormaps["tab10" if len(names) <= 10 else "tab20"]
    return {name: table(index % table.N) for index, name in enumerate(names)}
