"""Sharing images out to splits by a hash of their names, and refusing splits that are empty or overlap."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from paretune.core.errors import UserError


def share_out(
    stems: Sequence[str], val: float, test: float, holds: Mapping[str, Collection[str]] | None = None
) -> dict[str, list[str]]:
    """Split by a hash of each name: images that come later leave the others where they are.

    Two things come before the hash, where there are few images: val has one at least if its share is one or more, and
    a class that is not in train goes there with an image of val or test, which keep one at least.

    Args:
        stems: names of the images.
        val: share of val,
        test: and of test.
        holds: image → classes of its objects; None leaves classes out of account.
    """
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for stem in stems:
        place = _place(stem)
        lists["val" if place < val else "test" if place < val + test else "train"].append(stem)
    kinds = {stem: frozenset((holds or {}).get(stem, ())) for stem in stems}
    train = lists["train"]
    often = Counter(kind for stem in train for kind in kinds[stem])
    if not lists["val"] and val * len(stems) >= 1 and len(train) > 1:
        spared = [stem for stem in train if all(often[kind] > 1 for kind in kinds[stem])] or train
        nearest = min(spared, key=_place)
        train.remove(nearest)
        lists["val"].append(nearest)
        often.subtract(kinds[nearest])
    for split in ("val", "test") if train else ():
        for stem in sorted(lists[split], key=_place, reverse=True):
            if len(lists[split]) > 1 and any(not often[kind] for kind in kinds[stem]):
                lists[split].remove(stem)
                train.append(stem)
                often.update(kinds[stem])
    return {split: ids for split, ids in lists.items() if ids or split != "test"}


def _place(name: str) -> float:
    """Return where a name falls between 0 and 1."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


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
