"""Photographs with their ground truth, whatever format it was written in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from urllib.parse import quote

from paretune.core.spec import fingerprint
from paretune.core.types import Annotations, Image, Split
from paretune.data.image_io import read_image


@dataclass(frozen=True)
class ImageFileSplit(Split):
    """The images of one split; pixels are read when they are asked for."""

    classes: tuple[str, ...]
    ids: Sequence[str]
    files: tuple[Path, ...]
    sizes: tuple[tuple[int, int], ...]
    """(width, height) of each image as it is read, by which pictures are left unturned (``ImageHeader.turned``)."""
    truth: tuple[Annotations, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        """Read one photograph."""
        return read_image(self.files[index], self.sizes[index])

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height) as it is read."""
        return self.sizes[index]

    def annotations(self, index: int) -> Annotations:
        """Return the ground truth of one photograph."""
        return self.truth[index]

    def file(self, index: int) -> Path:
        """Return the image's file."""
        return self.files[index]

    def digest(self, index: int) -> str:
        """Return a fingerprint of an image's file and its annotations."""
        truth = self.truth[index]
        objects = (truth.boxes.tolist(), truth.labels.tolist(), truth.ignore.tolist())
        return fingerprint(self.ids[index], self.files[index].stat().st_size, self.size(index), *objects)


def unique_ids(files: Sequence[Path], root: Path) -> Mapping[Path, str]:
    """Name each file by its stem, those that share one by their path below the root, if need be with its ending."""
    paths = {file: file.relative_to(root) if file.is_relative_to(root) else file for file in files}
    named = {file: file.stem for file in paths}
    ways = chain((_of_path, _of_path_and_ending), repeat(_escaped))
    while len(often := Counter(named.values())) < len(named):
        longer = next(ways)
        named |= {file: longer(path) for file, path in paths.items() if often[named[file]] > 1}
    return named


def _of_path(path: Path) -> str:
    return "_".join(path.with_suffix("").parts)


def _of_path_and_ending(path: Path) -> str:
    return f"{_of_path(path)}_{path.suffix.removeprefix('.')}"


def _escaped(path: Path) -> str:
    """Return a name that no other path has, so that naming ends: a/b.jpg and a_b.jpg differ."""
    return quote(str(path), safe="")
