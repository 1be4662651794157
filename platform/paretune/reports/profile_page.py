"""A profile as one page that needs nothing else: tables and pictures."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from paretune.profiling.latency.compare import Comparison
from paretune.profiling.latency.result import Latency
from paretune.profiling.operators import OperatorTimes
from paretune.reports.profile_plots import distributions, layers, ratios
from paretune.reports.profile_tables import Table

ABOUT = """Of each artefact alone on the device: the share of inferences that took at most so long. The line is the
median, the band the smallest and largest median of its processes."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #202124; }
table { border-collapse: collapse; margin: .5em 0; } th, td { padding: .2em .9em; text-align: right; }
.words { text-align: left; } th { border-bottom: 1px solid #9aa0a6; }
tr:last-child td { border-bottom: 1px solid #dadce0; } ul { color: #5f6368; font-size: 13px; } img { max-width: 100%; }
"""


def page(
    measured: Sequence[tuple[str, Latency]],
    counted: Sequence[tuple[str, OperatorTimes | str]],
    tables: Sequence[Table],
    comparison: Comparison | None = None,
) -> str:
    """Return the page of a profile as HTML, its pictures inside.

    Args:
        measured: name of each artefact and its latency alone.
        counted: name and operators of each artefact, or why they are not known; none for none.
        tables: of the profile.
        comparison: of those that were measured; None for none.
    """
    names, latencies = zip(*measured, strict=True)
    known = [(name, found) for name, found in counted if not isinstance(found, str)]
    before_after = [] if comparison is None else [picture("times as fast as the first", ratios(names, comparison))]
    parts = [
        *before_after,
        *(table(rows) for rows in tables),
        "<h2>Latencies</h2>",
        picture("distribution of latencies", distributions(names, latencies)),
        f"<ul><li>{ABOUT}</li></ul>",
        *(picture("layers that take longest", layers(name, found)) for name, found in known),
    ]
    return document("Profile", parts)


def document(title: str, parts: Sequence[str]) -> str:
    """Return a page of these parts, which needs no other file."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>Paretune {title.lower()}</title>"
    return "\n".join([head, f"<style>{STYLE}</style><h1>{title}</h1>", *parts, "</html>"])


def picture(what: str, png: bytes) -> str:
    """Return a PNG as a part of a page."""
    return f'<img alt="{what}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def table(rows: Table) -> str:
    """Return a table as a part of a page."""
    left = [number == 0 or word in rows.words for number, word in enumerate(rows.head)]

    def row(words: Sequence[str], cell: str) -> str:
        kinds = (f"{cell} class=words" if is_words else cell for is_words in left)
        cells = (f"<{kind}>{html.escape(word)}</{cell}>" for kind, word in zip(kinds, words, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    notes = "".join(f"<li>{html.escape(note)}</li>" for note in rows.notes)
    lines = "\n".join(row(words, "td") for words in rows.rows)
    cells = f"<table>{row(rows.head, 'th')}{lines}</table>" if rows.rows else ""
    return f"<h2>{html.escape(rows.title)}</h2>{cells}<ul>{notes}</ul>"
