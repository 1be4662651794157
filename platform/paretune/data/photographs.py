"""Photographs with their ground truth, whatever format it was written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.data.images import read_image
from paretune.structures import Annotations, Image, Split


@dataclass(frozen=True)
class Photographs(Split):
    """The images of one split; pixels are read when they are asked for."""

    classes: tuple[str, ...]
    ids: Sequence[str]
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image."""
    truth: tuple[Annotations, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        """Read one photograph."""
        return read_image(self.files[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) as the file says."""
        return self.sizes[index]

    def annotations(self, index: int) -> Annotations:
        """Return the ground truth of one photograph."""
        return self.truth[index]

    def file(self, index: int) -> Path:
        """Return the image's file."""
        return self.files[index]


def unique_ids(files: Sequence[Path], root: Path) -> Mapping[Path, str]:
    """Name each file by its stem, and those that share one by their path below the root."""
    stems = Counter(file.stem for file in set(files))
    named: dict[Path, str] = {}
    for file in files:
        below = file.relative_to(root) if file.is_relative_to(root) else file
        named[file] = file.stem if stems[file.stem] == 1 else "_".join(below.with_suffix("").parts)
    return named
