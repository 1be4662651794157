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
"""Columns where nobody looks: a file, a pipe."""


def table_text(table: Table) -> str:
    """Return a table of words as it is printed, without colours."""
    buffer = io.StringIO()
    plain_console(file=buffer, width=terminal_width(), color_system=None).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def plain_console(**options: Any) -> Console:
    """Return a console that prints words as they are: names of files and classes hold brackets, or ``:car:``."""
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def terminal_width() -> int:
    """Return the terminal's columns, or 120 where the output is none; narrower than 100 makes no table."""
    return max(100, shutil.get_terminal_size((WIDTH, 24)).columns) if sys.stdout.isatty() else WIDTH


def print_table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    *,
    left: Sequence[str] = (),
) -> None:
    """Print rows of words under a title, and notes under them; none of it is markup.

    Args:
        title: of the table.
        head: of its columns; without rows it is left out.
        rows: one word for each column.
        notes: a line each.
        left: columns of words, besides the first; others hold numbers and stand to the right.
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
