"""Bright and dark rectangles on grey noise, drawn when they are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from paretune.core.types import Annotations, Data, Image, Split
from paretune.data.base import Dataset

CLASSES = ("bright", "dark")
WIDTH, HEIGHT = 96, 64


class Rectangles(Dataset):
    """One to three rectangles in each picture of 96 x 64 pixels."""

    name: ClassVar[str] = "rectangles"

    train: int = Field(default=96, ge=1, le=10_000)
    """Pictures to train on."""
    val: int = Field(default=24, ge=1, le=10_000)
    """Pictures to choose by."""
    test: int = Field(default=24, ge=1, le=10_000)
    """Pictures that nothing is chosen by."""

    def problems(self) -> list[str]:
        """Return nothing: there are no files."""
        return []

    def open(self, cache: Path) -> Data:
        """Return the splits; nothing is kept in the cache."""
        splits: dict[str, Split] = {name: Drawn(name, getattr(self, name)) for name in ("train", "val", "test")}
        facts: dict[str, int] = {}
        for name, split in splits.items():
            labels = np.concatenate([split.annotations(index).labels for index in range(len(split))])
            facts |= {f"images_{name}": len(split), f"boxes_{name}": len(labels)}
            facts |= {f"boxes_{name}_{kind}": int((labels == label).sum()) for label, kind in enumerate(CLASSES)}
        return Data(CLASSES, splits, fingerprint=f"rectangles-{self.train}-{self.val}-{self.test}", facts=facts)


@dataclass(frozen=True)
class Drawn(Split):
    """One split."""

    name: str
    count: int
    classes: tuple[str, ...] = CLASSES

    @property
    def ids(self) -> Sequence[str]:  # type: ignore[override]
        """Return the names of the pictures."""
        return [f"{self.name}-{index}" for index in range(self.count)]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.count

    def image(self, index: int) -> Image:
        """Draw a picture."""
        random = np.random.default_rng([*self.name.encode(), index, 1])
        picture = random.integers(90, 150, (HEIGHT, WIDTH, 3), np.uint8)
        truth = self.annotations(index)
        for (left, top, right, bottom), label in zip(truth.boxes.astype(int), truth.labels, strict=True):
            picture[top:bottom, left:right] = 230 if label == 0 else 20
        return picture

    def size(self, index: int) -> tuple[int, int]:
        """Return width and height."""
        return WIDTH, HEIGHT

    def annotations(self, index: int) -> Annotations:
        """Return the rectangles, side by side."""
        random = np.random.default_rng([*self.name.encode(), index])
        slots = random.permutation(3)[: random.integers(1, 4)]
        corner = np.stack([32 * slots + random.integers(1, 6, len(slots)), random.integers(1, 24, len(slots))], 1)
        sides = random.integers((14, 16), (26, 38), (len(slots), 2))
        boxes = np.concatenate([corner, corner + sides], 1).astype(np.float32)
        return Annotations(boxes, random.integers(0, 2, len(slots)), np.zeros(len(slots), bool))

    def file(self, index: int) -> None:
        """Return None: there is no file."""
