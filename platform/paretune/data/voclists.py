"""Which images of a VOC folder belong to which split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from paretune.errors import UserError


def read_list(file: Path, known: set[str]) -> list[str]:
    """Read a list of ImageSets/Main: an id on each line, perhaps with a flag behind it.

    Raises:
        UserError: an id without annotation, or twice in the list.
    """
    ids: dict[str, int] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        name = line.strip() if line.strip() in known else line.split()[0]
        if name not in known:
            raise UserError(f"{file}:{number}: {name!r} has no annotation (expected {f'{name}.xml'!r} in Annotations/)")
        if name in ids:
            raise UserError(f"{file}:{number}: {name!r} is in this list already, on line {ids[name]}")
        ids[name] = number
    return list(ids)


def share_out(stems: Sequence[str], val: float, test: float) -> dict[str, list[str]]:
    """Split by a hash of each name: images that come later leave the others where they are."""
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for stem in stems:
        place = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:8], "big") / 2**64
        lists["val" if place < val else "test" if place < val + test else "train"].append(stem)
    return {split: ids for split, ids in lists.items() if ids or split != "test"}


BY_SHARE = "{split} got none of {all} images by a hash of their names: raise {split}_share, or add images"
"""How a split is filled that was shared out, with its name and the number of images."""
ALL_SHARED = "all of {all} images fell to the others by a hash of their names: lower val_share, or add images"
"""How train is filled."""


def check_lists(
    lists: Mapping[str, Sequence[str]], where: Path | str, remedy: str, shared: Collection[str] = ()
) -> None:
    """Refuse empty splits, and images that are in two of them.

    Args:
        lists: split → names of its images.
        where: the dataset or the options that the splits come from, for messages.
        remedy: how images get into a split in this format, with ``{split}`` and ``{all}`` to be filled in.
        shared: splits that were shared out by the shares of the dataset, which have a remedy of their own.

    Raises:
        UserError: says which split, and the remedy.
    """
    total = sum(map(len, lists.values()))
    for split, ids in lists.items():
        if not ids:
            share = BY_SHARE if split != "train" else ALL_SHARED
            told = (share if total and split in shared else remedy).format(split=split, all=total)
            raise UserError(f"{where}: the split {split!r} holds no images; {told}")
    splits = list(lists)
    for one, other in ((a, b) for i, a in enumerate(splits) for b in splits[i + 1 :]):
        if both := sorted(set(lists[one]) & set(lists[other])):
            shared = f"{len(both)} images are in {one} and in {other} (the first: {both[0]!r})"
            raise UserError(f"{where}: {shared}; what is trained on cannot tell how accurate the result is")
