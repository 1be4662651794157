"""Plug-in tables: names and the classes behind them, which are imported on demand.

Other packages add rows through the entry point group ``paretune.<kind>``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from paretune.core.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """The table of one kind of plug-in.

    Args:
        kind: singular word for a row in messages, such as "step".
        rows: name → ``module:Class``.
    """

    def __init__(self, kind: str, rows: Mapping[str, str]) -> None:
        """Store the rows without importing anything."""
        self.kind = kind
        self._rows = dict(rows)

    @cached_property
    def rows(self) -> dict[str, str]:
        """All rows by name, this package's and those of other installed packages."""
        others = {point.name: point.value for point in entry_points(group=f"paretune.{self.kind}")}
        return {**others, **self._rows}

    @property
    def names(self) -> list[str]:
        """Return every name in the table, sorted."""
        return sorted(self.rows)

    def load(self, name: str) -> type[T]:
        """Import and return the class of one row.

        Raises:
            UserError: the name is not in the table, or its library is not installed.
        """
        if name not in self.rows:
            known = ", ".join(self.names)
            raise UserError(f"unknown {self.kind} {name!r}{did_you_mean(name, self.names)}; known: {known}")
        module, _, attribute = self.rows[name].partition(":")
        try:
            plugin: type[T] = getattr(importlib.import_module(module), attribute)
        except (AttributeError, ImportError) as error:  # no such class in it, or no such module
            raise UserError(f"{self.kind} {name!r} cannot be loaded: {error}") from error
        return plugin

    def loadable(self) -> list[type[T]]:
        """Import and return the classes of all rows, by name; those of other packages only where they can be loaded.

        Raises:
            UserError: a row of this package cannot be loaded.
        """
        names = []
        for name in self.names:
            try:
                names.append(self.load(name))
            except UserError:
                if name in self._rows:
                    raise
        return names
