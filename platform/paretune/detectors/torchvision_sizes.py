"""What an input size leaves of the size in which torchvision's own transform would show pictures."""

from __future__ import annotations

from collections import Counter

from paretune.core.types import Data, InputSize
from paretune.data.preprocess import Preprocess
from paretune.detectors.base import Detector

PADDED_TO = 32
"""Multiple in pixels to which torchvision fills up each picture."""
_LARGEST = InputSize(1_000_000, 1_000_000)
_LOOKED_AT = 2000
"""Pictures of each split whose sizes are looked at."""


def padded(preprocess: Preprocess, width: int, height: int) -> InputSize:
    """Return the input that torchvision makes of one picture: scaled, and filled up to multiples of 32."""
    inner = preprocess.place(width, height, _LARGEST).inner
    return InputSize(*(-(-side // PADDED_TO) * PADDED_TO for side in inner))


def size_notes(detector: Detector, size: InputSize, data: Data) -> list[str]:
    """Return notes on an input size that is not torchvision's own, a line each; none for other families."""
    own = detector.trained_size
    if own is not None and own != size:
        return [f"input_size {size}: torchvision's own, which such weights are usually trained at, is {own}"]
    preprocess = detector.preprocess
    if preprocess.shortest is None:
        return []
    pictures = Counter(
        split.size(index)
        for name, split in data.splits.items()
        if name != "test"
        for index in range(0, len(split), max(1, len(split) // _LOOKED_AT))
    )
    return _picture_notes(preprocess, size, pictures)


def _picture_notes(preprocess: Preprocess, size: InputSize, pictures: Counter[tuple[int, int]]) -> list[str]:
    own = {sides: padded(preprocess, *sides) for sides in pictures}
    cramped = [sides for sides, one in own.items() if one.width > size.width or one.height > size.height]
    exact, total = sum(pictures[sides] for sides, one in own.items() if one == size), pictures.total()
    notes = [f"input_size {size}: {exact} of {total} pictures fill it just as torchvision's transform has them"]
    if cramped:
        worst = max(cramped, key=lambda sides: pictures[sides])
        here, there = (preprocess.place(*worst, one).inner for one in (size, _LARGEST))
        room = InputSize(max(one.width for one in own.values()), max(one.height for one in own.values()))
        count = sum(pictures[sides] for sides in cramped)
        notes.append(
            f"input_size {size}: {count} of {total} pictures are smaller in it than "
            f"torchvision shows them ({_by(worst)} as {_by(here)}, not {_by(there)}); {room} has room for all"
        )
    return notes


def _by(sides: tuple[int, int]) -> str:
    return f"{sides[0]}x{sides[1]}"
