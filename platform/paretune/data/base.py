"""What a dataset must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from paretune.core.spec import Spec
from paretune.core.types import Data


class Dataset(Spec, ABC):
    """Images with annotations, in splits.

    Importing a dataset's file and calling ``problems`` must stay cheap (no torch): ``paretune check``
    does both.
    """

    @abstractmethod
    def problems(self) -> list[str]:
        """Return what is wrong with the files in a quick look (folder missing or empty), one line each."""

    def folders(self) -> list[str]:
        """Return the folders that the dataset is read from, as its fields name them; none for a generated dataset.

        ``problems`` finds what is wrong with them only on a machine that has them.
        """
        return []

    def unnamed(self) -> str | None:
        """Return the field whose folder is still to be named, or None: a job may be written before it is known."""
        return None

    @abstractmethod
    def open(self, cache: Path) -> Data:
        """Open the dataset, making what it generates (images, splits) under ``cache``.

        Opening twice, also from two processes at once, gives the same and makes it only once.

        Raises:
            UserError: an annotation without its image, an unreadable file: file and reason named.
        """

    def open_for(self, split: str, cache: Path) -> Data:  # noqa: ARG002 - for those that can leave splits out
        """Open the dataset for one of its splits; the others may be absent where the format allows it.

        Raises:
            UserError: as ``open``.
        """
        return self.open(cache)
