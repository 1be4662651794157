"""Sharing the images of a dataset out anew."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paretune.core.errors import UserError, did_you_mean
from paretune.core.types import Annotations, Data, Image, Split
from paretune.data.raw_annotations import READ_ALL_THE_SAME
from paretune.data.split_counts import facts
from paretune.data.split_lists import check_lists


def split_by_hash(data: Data, val: float, test: float, seed: int) -> Data:
    """Split anew, by a hash of seed and image name: images that come later leave the others where they are.

    Args:
        data: what is split; its own splits are joined.
        val: share of the images for val,
        test: and for test.
        seed: another one gives other splits.

    Raises:
        UserError: a split would be empty, or two images have the same name.
    """
    if not (val > 0 and test >= 0 and val + test < 1):
        raise UserError(f"--val {val:g} --test {test:g}: val must be above 0, and something must be left for train")
    parts: dict[str, list[tuple[Split, int]]] = {"train": [], "val": [], "test": []}
    for split in data.splits.values():
        for index, name in enumerate(split.ids):
            place = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") / 2**64
            parts["val" if place < val else "test" if place < val + test else "train"].append((split, index))
    splits: dict[str, Split] = {
        name: MergedSplit(data.classes, tuple(split.ids[index] for split, index in chosen), tuple(chosen))
        for name, chosen in parts.items()
        if chosen or name != "test"
    }
    remedy = "of {all} images none fell to it by a hash of their names: give it a larger share, or add images"
    check_lists({name: split.ids for name, split in splits.items()}, f"--val {val:g} --test {test:g}", remedy)
    return replace(data, splits=splits, facts=facts(splits))


@dataclass(frozen=True)
class MergedSplit(Split):
    """Images out of several splits."""

    classes: tuple[str, ...]
    ids: Sequence[str]
    parts: tuple[tuple[Split, int], ...]
    """Where each image comes from."""

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        """Read one image."""
        split, own = self.parts[index]
        return split.image(own)

    def size(self, index: int) -> tuple[int, int]:
        """Return (width, height)."""
        split, own = self.parts[index]
        return split.size(own)

    def annotations(self, index: int) -> Annotations:
        """Return the ground truth of one image."""
        split, own = self.parts[index]
        return split.annotations(own)

    def file(self, index: int) -> Path | None:
        """Return the image's file."""
        split, own = self.parts[index]
        return split.file(own)


def split_of(data: Data, name: str) -> Split:
    """Return one split of a dataset.

    Raises:
        UserError: there is none of that name; says which there are.
    """
    if name not in data.splits:
        hint = did_you_mean(name, data.splits)
        told = f"--split {name}: no such split{hint}; the dataset has {', '.join(data.splits)}"
        raise UserError("\n".join([told, *(note for note in data.notes if READ_ALL_THE_SAME["missing-split"] in note)]))
    return data.splits[name]
