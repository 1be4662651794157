"""The terminal: a console that prints words as they are, its width, and the text of tables."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


WIDTH = 120
"""Columns of a table that is printed to a file or a pipe."""


def table_text(table: Table) -> str:
    """Return the text of a table, without colours."""
    buffer = io.StringIO()
    plain_console(file=buffer, width=terminal_width(), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def plain_console(**options: Any) -> Console:
    """Return a console without markup: names of files and classes may hold brackets, or ``:car:``."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def live_console() -> Console | None:
    """Return a console for output that is redrawn; None where stdout is no terminal that can do so, or in CI."""
    if not sys.stdout.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return None
    return None if os.environ.get("CI", "").lower() not in ("", "0", "false") else plain_console()


def terminal_width() -> int:
    """Return the terminal's columns, at least 100, or 120 if the output is no terminal."""
    return max(100, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH
