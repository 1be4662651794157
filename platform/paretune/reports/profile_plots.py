"""Drawings of profiles, each an SVG element for a page: distribution of latencies, speed-ups, roofline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from paretune.profiling.latency.compare import Comparison, LatencyRatio
from paretune.profiling.latency.result import Latency
from paretune.profiling.latency.samples import milliseconds
from paretune.profiling.roofline.diagnosis import Diagnosis, LayerBound
from paretune.reports.figures import BLUE, GREEN, GREY, RED, label, new_figure, page_svg

COLOURS: dict[LayerBound, str] = {"compute": BLUE, "memory": GREEN, "launch": RED}
WIDTH = 7.0
"""Width of a drawing in inches; a page may be 600 pixels wide, and letters of 8 points are legible there."""
LARGEST_DOT = 400.0
"""Area of the slowest layer's dot in square points."""
LONGEST = 200
"""Characters of a name in a picture."""


def distributions(names: Sequence[str], latencies: Sequence[Latency]) -> str:
    """Draw the share of inferences (0 to 1) that end within a time (ms), with a curve for each artefact."""
    figure = new_figure(WIDTH, 3.6)
    axes = figure.subplots()
    for name, latency in zip(names, latencies, strict=True):
        times = np.sort(milliseconds(latency.rows, "latency", "wall"))
        (curve,) = axes.step(times, np.arange(1, len(times) + 1) / len(times), where="post", label=label(name, LONGEST))
        axes.axvline(float(np.median(times)), color=curve.get_color(), linewidth=0.8)
        axes.axvspan(*latency.spread(), color=curve.get_color(), alpha=0.12)
    axes.set_xlim(
        left=0, right=1.3 * max(np.percentile(milliseconds(x.rows, "latency", "wall"), 99) for x in latencies)
    )
    axes.set_xlabel("image to boxes, ms")
    axes.set_ylabel("share of inferences")
    axes.legend(loc="lower right", fontsize=8)
    return page_svg(figure)


def ratios(names: Sequence[str], comparison: Comparison) -> str:
    """Draw the speed-ups of artefacts over the first, measured interleaved, with 95 % intervals."""
    figure = new_figure(WIDTH, 1.2 + 0.4 * len(names))
    axes = figure.subplots()
    for shift, network, colour, part in (
        (-0.18, False, BLUE, "image to boxes"),
        (0.18, True, GREY, "the network alone"),
    ):
        ratio_by_name = comparison.ratios(network=network)
        times = np.array([1 / ratio.ratio for ratio in ratio_by_name])
        axes.barh(
            np.arange(len(ratio_by_name)) + shift, times, 0.34, color=colour, label=part, xerr=_whiskers(ratio_by_name)
        )
    axes.axvline(1, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(names)), [label(name, LONGEST) for name in names], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label(f"times as fast as {names[comparison.baseline]}", LONGEST))
    axes.legend(fontsize=8)
    return page_svg(figure)


def _whiskers(found: Sequence[LatencyRatio]) -> Any:
    """Return how far the intervals of speed-ups reach to either side, (2, N)."""
    low = [max(0.0, 1 / ratio.ratio - 1 / ratio.high) for ratio in found]
    return np.array([low, [max(0.0, 1 / ratio.low - 1 / ratio.ratio) for ratio in found]])


def roofline(found: Diagnosis) -> str:
    """Draw the GFLOP/s of each layer over its operations per byte, below the measured roofs.

    The area of a dot is proportional to the layer's time. Method: Williams et al., CACM 52(4), 2009.
    """
    layers, roofs = [layer for layer in found.layers if layer.ms and layer.work.nbytes], found.roofs
    figure = new_figure(WIDTH, 4.6)
    axes = figure.subplots()
    spread = [layer.intensity for layer in layers] or [1.0]
    span = np.geomspace(min(0.1, *spread) / 2, max(100.0, *spread) * 2, 200)
    precisions = {layer.work.precision if layer.work.precision in roofs.compute else "fp32" for layer in layers}
    fastest = max(rate for _, rate in roofs.copies)
    slowest = roofs.copies[-1][1]
    for precision in sorted(precisions) or ["fp32"]:
        top = roofs.compute[precision]
        axes.plot(span, np.minimum(top, span * fastest) / 1e9, color="#000000", linewidth=1.2)
        axes.plot(span, np.minimum(top, span * slowest) / 1e9, color="#000000", linewidth=0.8, linestyle="--")
        axes.annotate(
            f"{precision}: {top / 1e9:.0f} GFLOP/s", (span[-1], top / 1e9), ha="right", va="bottom", fontsize=8
        )
    longest = max((layer.ms for layer in layers), default=1.0)
    for bound, colour in COLOURS.items():
        if not (some := [layer for layer in layers if layer.bound == bound]):
            continue
        axes.scatter(
            [layer.intensity for layer in some],
            [layer.work.flops / layer.ms / 1e6 for layer in some],
            s=[LARGEST_DOT * layer.ms / longest for layer in some],
            color=colour,
            alpha=0.5,
            label=f"{bound}-bound layers, {sum(layer.ms for layer in some):.2f} ms",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")
    copies = f"slopes: {fastest / 1e9:.0f} GB/s in the cache, {slowest / 1e9:.0f} GB/s (dashed) in memory"
    axes.set_title(label(f"{roofs.device}, {copies}", LONGEST), fontsize=9)
    axes.legend(fontsize=8, loc="lower right", markerscale=0.5)
    return page_svg(figure)


def predictions(tried: Sequence[tuple[str, float, LatencyRatio]]) -> str:
    """Draw the predicted and the measured speed-up of each piece of advice.

    Args:
        tried: knob, predicted speed-up, and measured latency as a share of the latency before.
    """
    figure = new_figure(WIDTH, 1.2 + 0.5 * len(tried))
    axes, places = figure.subplots(), np.arange(len(tried))
    measured = [ratio for _, _, ratio in tried]
    axes.barh(places - 0.2, [predicted for _, predicted, _ in tried], 0.36, color=GREY, label="predicted")
    times = [1 / ratio.ratio for ratio in measured]
    axes.barh(places + 0.2, times, 0.36, color=BLUE, label="measured", xerr=_whiskers(measured))
    axes.axvline(1, color="#000000", linewidth=0.8)
    axes.set_yticks(places, [label(knob, LONGEST) for knob, _, _ in tried], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("times as fast, image to boxes")
    axes.legend(fontsize=8)
    return page_svg(figure)
