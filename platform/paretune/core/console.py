"""The terminal: a console that prints words as they are, its width, and tables."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Sequence
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


def terminal_width() -> int:
    """Return the terminal's columns, at least 100, or 120 if the output is no terminal."""
    return max(100, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def print_table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    *,
    left: Sequence[str] = (),
) -> None:
    """Print a table without markup under a title, and notes below it.

    Args:
        title: line above the table.
        head: heads of the columns; not printed without rows.
        rows: a text for each column.
        notes: a line each.
        left: heads of the columns that are aligned to the left, in addition to the first.
    """
    from rich import box
    from rich.table import Table

    console = plain_console(width=terminal_width())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, word in enumerate(head):
        table.add_column(word, justify="right" if index and word not in left else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(title)
    if rows:
        console.print(table)
    for note in notes:
        console.print(note)
    console.print()
