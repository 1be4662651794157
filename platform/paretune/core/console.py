"""The terminal: a console that prints words as they are, its width, and the text of tables."""

from __future__ import annotations

import io
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


WIDTH = 120
"""Columns of a table that is printed to a file or a pipe, if it fits into so many."""
NARROWEST = 20
"""Fewest columns of a terminal that are believed."""


def table_text(table: Table, width: int | None = None) -> str:
    """Return the text of a table, without colours, at most as wide as the terminal unless a width is given."""
    buffer = io.StringIO()
    columns = width or terminal_columns() or WIDTH
    plain_console(file=buffer, width=columns, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def plain_console(**options: Any) -> Console:
    """Return a console without markup: names of files and classes may hold brackets, or ``:car:``."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def live_console() -> Console | None:
    """Return a console for output that is redrawn; None where stdout is no terminal that can do so, or in CI."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return None
    try:
        handle = sys.stdout.fileno()
    except OSError:
        return plain_console()
    # a stream of its own, since stdout escapes control characters
    return plain_console(file=open(handle, "w", encoding=sys.stdout.encoding, errors="replace", closefd=False))


def terminal_columns() -> int | None:
    """Return the columns of the terminal, or of the environment variable COLUMNS; None if nothing limits a line."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdecimal()):
        return None
    return max(NARROWEST, shutil.get_terminal_size((WIDTH, 24)).columns)


def filled(text: str, indent: str = "") -> str:
    """Return a line of text, broken between words where the terminal ends; further lines begin with ``indent``."""
    if (columns := terminal_columns()) is None:
        return text
    wrapper = textwrap.TextWrapper(columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapper.wrap(text)) or text
