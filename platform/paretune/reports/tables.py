"""Tables of words: one model for the terminal and for HTML pages."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace

from paretune.core.metrics import UNKNOWN

LEAST, MOST = 12, 32
"""Columns of the terminal that a column of words needs to be read: so many, or its longest word up to so many."""
BETWEEN = 2
"""Columns of the terminal between two columns of a table."""


@dataclass(frozen=True)
class Table:
    """One table; a cell may have several lines, of which those after the first are small print."""

    title: str
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    """Columns of words, beside the first one; the others hold numbers, and stand to the right."""
    apart: int = 0
    """Number of last rows that are set apart from the others."""
    spare: tuple[str, ...] = ()
    """Columns that a narrow terminal leaves out, the first one first."""
    share: str = ""
    """Column of percentages behind which a page draws bars."""
    about: str = ""
    """How the figures relate to others, for pages; a terminal shows the notes only."""

    def is_words(self, column: int) -> bool:
        """Return whether a column, by its index, holds words."""
        return column == 0 or self.head[column] in self.words

    def text(self) -> str:
        """Return the title and, in columns for a terminal, the rows.

        In a terminal that is too narrow, columns of ``spare`` are left out, which a line below names; if that is not
        enough, each row becomes a block with a line for each cell. Text for a file or a pipe is as wide as it must be.
        """
        from paretune.core.console import WIDTH, filled, terminal_columns

        title = [filled(self.title)] if self.title else []
        columns = terminal_columns()
        if columns is None:
            return "\n".join([*title, *self.in_columns(max(WIDTH, self.least_width))]).rstrip()
        table, missing = self._narrowed(columns)
        if table.least_width > columns:
            return "\n".join([*title, *self._in_blocks(columns)]).rstrip()
        told = [filled(f"left out in {columns} columns: {', '.join(missing)}")] if missing else []
        return "\n".join([*title, *table.in_columns(columns), *told]).rstrip()

    def _narrowed(self, columns: int) -> tuple[Table, list[str]]:
        """Return the table without as many columns of ``spare`` as have no room, and their names."""
        table, missing = self, list[str]()
        for name in self.spare:
            if table.least_width <= columns:
                break
            if name in table.head:
                table = table.without(table.head.index(name))
                missing.append(name)
        return table, missing

    def without(self, column: int) -> Table:
        """Return the table without one column, by its index."""
        head, *rows = ((*row[:column], *row[column + 1 :]) for row in (self.head, *self.rows))
        return replace(self, head=head, rows=tuple(rows))

    @property
    def least_width(self) -> int:
        """Return the columns of the terminal in which every cell can be read, the box's edges included."""
        return sum(map(self._least, range(len(self.head)))) + BETWEEN * len(self.head)

    def _least(self, column: int) -> int:
        """Return the columns of the terminal that one column needs."""
        from rich.cells import cell_len

        cells = (row[column] for row in (self.head, *self.rows) if column < len(row))
        lines = [line for cell in cells for line in cell.splitlines()]
        longest = max(map(cell_len, lines), default=0)
        if self.head[column] not in self.words:
            return longest
        word = max((cell_len(word) for line in lines for word in line.split()), default=0)
        return min(longest, max(LEAST, min(word, MOST)))

    def in_columns(self, width: int) -> list[str]:
        """Return the lines of the head and the rows, at most as wide as asked for if that is enough."""
        from rich import box
        from rich import table as rich

        from paretune.core.console import table_text

        table = rich.Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for index, word in enumerate(self.head):
            words = self.is_words(index)
            table.add_column(
                word, justify="left" if words else "right", no_wrap=word not in self.words, overflow="fold"
            )
        for index, row in enumerate(self.rows):
            if self.apart and index == len(self.rows) - self.apart:
                table.add_section()
            table.add_row(*row)
        return [line[1:] for line in table_text(table, width).splitlines()]  # the box has a blank edge

    def _in_blocks(self, width: int) -> list[str]:
        """Return a line for each cell, with its head, and an empty line before each row."""
        indent = min(max((len(name) for name in self.head), default=0) + 1, width // 2)
        lines = list[str]()
        for row in self.rows:
            lines.append("")
            for name, cell in zip(self.head, row, strict=False):
                text = f"{name.ljust(indent - 1)} {' '.join(cell.split())}"
                lines += textwrap.wrap(text, width, subsequent_indent=" " * indent, break_on_hyphens=False)
        return [*lines, ""]


def print_table(table: Table) -> None:
    """Print a table, its notes below it, and an empty line."""
    from paretune.core.console import filled

    print("\n".join([table.text(), *map(filled, table.notes), ""]))


def number(value: float | None, form: str) -> str:
    """Return a number in a format such as ``.3f``, or ``UNKNOWN``."""
    return UNKNOWN if value is None else format(value, form)
