"""What tests of training share: pictures that a small network learns in seconds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.core.types import Annotations, Image


class Squares:
    """A light square and a dark one on grey, in pictures of one size."""

    classes = ("dark", "light")

    def __init__(self, count: int, width: int = 64, height: int = 64) -> None:
        self.ids: Sequence[str] = [str(number) for number in range(count)]
        self.width, self.height = width, height
        rng = np.random.default_rng(7)
        self.places = [rng.integers(0, min(width, height) - 24, (2, 2)) for _ in range(count)]

    def __len__(self) -> int:
        return len(self.ids)

    def size(self, index: int) -> tuple[int, int]:
        return self.width, self.height

    def image(self, index: int) -> Image:
        picture = np.full((self.height, self.width, 3), 120, np.uint8)
        for label, (x, y) in enumerate(self.places[index]):
            picture[y : y + 24, x : x + 24] = 20 + 220 * label
        return picture

    def annotations(self, index: int) -> Annotations:
        corners = self.places[index].astype(np.float32)
        return Annotations(np.concatenate((corners, corners + 24), 1), np.arange(2), np.zeros(2, bool))
