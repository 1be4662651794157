"""Diagnosis and advice as tables, and as a page with the roofline that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from paretune.core.metrics import UNKNOWN
from paretune.profiling.latency.compare import LatencyRatio
from paretune.profiling.roofline.advice import Advice
from paretune.profiling.roofline.diagnosis import Diagnosis
from paretune.reports.html import Picture, report_page
from paretune.reports.profile_plots import predictions, roofline
from paretune.reports.tables import Table

LAYERS = 8
"""Number of slowest layers that are shown."""
ABOUT_PARTS = """The time from image to boxes is the sum of preprocess, network and postprocess, each the median of its
stage; the time outside layers with weights, of the host and of transfers are parts of the network's. Shares are of the
whole; those of the network, above the roofline, are of the network alone. If free: times as fast if the part took no
time. At its roof: if each of its layers ran as fast as the machine can."""
ABOUT_LAYERS = """Layers are timed while operators are counted, which slows them down, and shown as their share of the
network's time without counting. The roofline has the same figures."""
ABOUT_ROOFLINE = """A dot is a layer, its area the layer's time. A layer on a line is as fast as the machine can
be: below the slope memory limits it, below the flat part arithmetic. Far below either, its time is that of a start."""
DRAWN = "The columns predicted and measured of the table above, with 95 % intervals."
ABOUT_ADVICE = """Predicted is computed from the times above. Measured is the built version against the artefact, taking
turns, with its 95 % interval; it also has what the prediction leaves out, such as other fusions of the runtime."""
Measured = Mapping[str, LatencyRatio | str]
"""Knob → latency after the advice as a share of that before, or why it is not known."""
NONE: Mapping[str, str] = {}
"""No changes of map."""


def advice_tables(
    diagnosis: Diagnosis, advice: Sequence[Advice], measured: Measured, changes: Mapping[str, str] = NONE
) -> list[Table]:
    """Return tables of the largest possible gains, of the slowest layers, and of the advice with its results."""
    ceilings = [
        (one.part, f"{one.ms:.3f}", f"{one.share:.0%}", _times(one.free), _times(one.at_roof))
        for one in diagnosis.ceilings(0)
    ]
    layers = [
        (
            layer.work.module,
            f"{layer.ms:.3f}",
            f"{layer.work.flops / layer.ms / 1e6:.1f}" if layer.ms else UNKNOWN,
            f"{layer.attained:.0%}",
            layer.bound,
        )
        for layer in diagnosis.layers[:LAYERS]
    ]
    return [
        Table(
            "what could be gained at most",
            ("part", "ms", "share", "if free", "at its roof"),
            tuple(ceilings),
            share="share",
            about=ABOUT_PARTS,
        ),
        Table(
            "slowest layers",
            ("layer", "ms", "GFLOP/s", "of its roof", "bound by"),
            tuple(layers),
            words=("bound by",),
            about=f"Parts of the network's {diagnosis.network_ms:.3f} ms. {ABOUT_LAYERS}",
        ),
        knob_table(advice, measured, changes, diagnosis.unknown),
    ]


def knob_table(
    advice: Sequence[Advice], measured: Measured, changes: Mapping[str, str] = NONE, unknown: str | None = None
) -> Table:
    """Return the advice with its results, or why there is none.

    Args:
        advice: the rows.
        measured: results of the advice that was tried.
        changes: knob → change of map with its interval, or why it is not known; the column is missing if it is empty.
        unknown: why it is not known what bounds the network.
    """
    knobs = [
        (
            one.knob,
            _times(one.predicted),
            _gained(measured.get(one.knob)),
            *([changes.get(one.knob, UNKNOWN)] if changes else []),
            one.risk,
            one.why,
        )
        for one in advice
    ]
    nothing = f"none: {unknown}" if unknown else "no knob of the network gains anything that could be measured"
    cost = ("map change",) if changes else ()
    return Table(
        "advice, the largest gain first",
        ("knob", "predicted", "measured", *cost, "may cost", "why"),
        tuple(knobs),
        () if knobs else (nothing,),
        words=("measured", *cost, "may cost", "why"),
        about=ABOUT_ADVICE if knobs else "",
    )


def verdict(diagnosis: Diagnosis) -> str:
    """Return the time of an inference and what bounds it as a line."""
    return f"{diagnosis.total_ms:.2f} ms from image to boxes, {diagnosis.verdict}"


def advice_page(
    name: str,
    diagnosis: Diagnosis,
    advice: Sequence[Advice],
    measured: Measured,
    notes: Sequence[str],
    changes: Mapping[str, str] = NONE,
) -> str:
    """Return the page as HTML, its drawings inside.

    Args:
        name: name of the artefact.
        diagnosis: its diagnosis.
        advice: the advice for it.
        measured: results of the advice that was tried.
        notes: notes of the measurements.
        changes: knob → change of map by the advice that was tried.
    """
    tried = [(one.knob, one.predicted, measured.get(one.knob)) for one in advice]
    built = [(knob, predicted, ratio) for knob, predicted, ratio in tried if isinstance(ratio, LatencyRatio)]
    tables = advice_tables(diagnosis, advice, measured, changes)
    parts: list[Table | Picture] = [
        Table(f"{name}: {verdict(diagnosis)}", notes=(diagnosis.evidence, *notes)),
        Picture("roofline", roofline(diagnosis), about=ABOUT_ROOFLINE),
        *tables,
        *([Picture("predicted and measured", predictions(built), about=DRAWN)] if built else []),
    ]
    return report_page("Advice", parts)


def _gained(measured: LatencyRatio | str | None) -> str:
    """Return the measured speed-up with its interval and verdict, or why it is not known."""
    if measured is None:
        return UNKNOWN
    if isinstance(measured, str):
        return measured
    times = f"{1 / measured.ratio:.2f}x [{1 / measured.high:.2f}, {1 / measured.low:.2f}]"
    return f"{times} {measured.verdict}"


def _times(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}x"
