"""A profile as one page that needs nothing else: tables, and how the latencies are distributed."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from paretune.profiling.latency import Latency
from paretune.profiling.operators import Operators
from paretune.profiling.samples import milliseconds
from paretune.profiling.tables import TOP, Rows, layer_of

ABOUT = """Of each artefact alone on the device: the share of inferences that took at most so long. The line is the
median, the band the smallest and largest median of its processes."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #202124; }
table { border-collapse: collapse; margin: .5em 0; } th, td { padding: .2em .9em; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { border-bottom: 1px solid #9aa0a6; }
tr:last-child td { border-bottom: 1px solid #dadce0; } ul { color: #5f6368; font-size: 13px; } img { max-width: 100%; }
"""


def page(
    names: Sequence[str],
    latencies: Sequence[Latency],
    counted: Sequence[Operators | str],
    tables: Sequence[Rows],
) -> str:
    """Return the page as HTML, its picture inside.

    Args:
        names: of the artefacts.
        latencies: of each of them alone.
        counted: the operators of each of them, or why they are not known; none for none.
        tables: of the profile.
    """
    known = [(name, found) for name, found in zip(names, counted, strict=False) if not isinstance(found, str)]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Paretune profile</title>",
        f"<style>{STYLE}</style><h1>Profile</h1>",
        *(_table(table) for table in tables),
        "<h2>Latencies</h2>",
        _picture("distribution of latencies", distributions(names, latencies)),
        f"<ul><li>{ABOUT}</li></ul>",
        *(_picture("layers that take longest", layers(name, found)) for name, found in known),
        "</html>",
    ]
    return "\n".join(parts)


def distributions(names: Sequence[str], latencies: Sequence[Latency]) -> bytes:
    """Draw the share of inferences (0 to 1) over the time within which they end (ms), one curve each, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, latency in zip(names, latencies, strict=True):
        times = np.sort(milliseconds(latency.rows, "latency", "wall"))
        (curve,) = axes.step(times, np.arange(1, len(times) + 1) / len(times), where="post", label=name)
        axes.axvline(float(np.median(times)), color=curve.get_color(), linewidth=0.8)
        axes.axvspan(*latency.spread(), color=curve.get_color(), alpha=0.12)
    axes.set_xlim(
        left=0, right=1.3 * max(np.percentile(milliseconds(x.rows, "latency", "wall"), 99) for x in latencies)
    )
    axes.set_xlabel("image to boxes, ms")
    axes.set_ylabel("share of inferences")
    axes.legend(loc="lower right", fontsize=8)
    return _png(figure)


def layers(name: str, found: Operators) -> bytes:
    """Draw the operators that take most of a network as bars (ms, and their share), as PNG."""
    from matplotlib.figure import Figure

    first = found.operators[:TOP]
    figure = Figure(figsize=(9, 0.9 + 0.27 * len(first)), dpi=110, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(first)), [found.scaled_ms([one]) for one in first], color="#4285f4")
    axes.bar_label(bars, [f"{found.share([one]):.1%}" for one in first], padding=3, fontsize=8)
    labels = [f"{layer_of(one)} {one.kind}" for one in first]
    axes.set_yticks(range(len(first)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("ms")
    axes.set_title(f"{name}: layers that take longest", fontsize=9, parse_math=False)
    return _png(figure)


def _picture(what: str, png: bytes) -> str:
    return f'<img alt="{what}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()


def _table(table: Rows) -> str:
    def row(words: Sequence[str], cell: str) -> str:
        return "<tr>" + "".join(f"<{cell}>{html.escape(word)}</{cell}>" for word in words) + "</tr>"

    notes = "".join(f"<li>{html.escape(note)}</li>" for note in table.notes)
    lines = "\n".join(row(words, "td") for words in table.rows)
    cells = f"<table>{row(table.head, 'th')}{lines}</table>" if table.rows else ""
    return f"<h2>{html.escape(table.title)}</h2>{cells}<ul>{notes}</ul>"
