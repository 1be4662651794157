"""Tables of words: one model for the terminal and for HTML pages."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.metrics import UNKNOWN


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
    share: str = ""
    """Column of percentages behind which a page draws bars."""
    about: str = ""
    """How the figures relate to others, for pages; a terminal shows the notes only."""

    def is_words(self, column: int) -> bool:
        """Return whether a column, by its index, holds words."""
        return column == 0 or self.head[column] in self.words

    def text(self) -> str:
        """Return the title and, in columns for a terminal, the rows."""
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
        lines = [line[1:] for line in table_text(table).splitlines()]  # the box has a blank edge
        return "\n".join([*([self.title] if self.title else []), *lines]).rstrip()


def print_table(table: Table) -> None:
    """Print a table, its notes below it, and an empty line."""
    print("\n".join([table.text(), *table.notes, ""]))


def number(value: float | None, form: str) -> str:
    """Return a number in a format such as ``.3f``, or ``UNKNOWN``."""
    return UNKNOWN if value is None else format(value, form)
