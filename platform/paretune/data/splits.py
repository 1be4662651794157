"""Choosing the images of train, val and test: by a folder's own splits, or by a hash of their names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from paretune.core.errors import UserError, did_you_mean
from paretune.core.types import Annotations, Data, Image, Split
from paretune.data.image_split import unique_ids
from paretune.data.raw_annotations import READ_ALL_THE_SAME, RawImage, Survey
from paretune.data.statistics import object_counts

BY_SHARE = "{split} got none of {all} images by a hash of their names: raise {split}_share, or add images"
"""How a split is filled that was shared out, with its name and the number of images."""
ALL_SHARED = "all of {all} images fell to the others by a hash of their names: lower val_share, or add images"
"""How train is filled."""


def share_out(
    names: Sequence[str],
    val: float,
    test: float,
    holds: Mapping[str, Collection[str]] | None = None,
    seed: int | None = None,
) -> dict[str, list[str]]:
    """Split by a hash of each name: images that come later leave the others where they are.

    Two things come before the hash, where there are few images: val has one at least if its share is one or more, and
    a class that is not in train goes there with an image of val or test, which keep one at least.

    Args:
        names: of the images.
        val: share of the images for val.
        test: share of the images for test.
        holds: image → classes of its objects; None leaves classes out of account.
        seed: another one gives other splits; None is that of a dataset without splits.
    """
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    places = {name: _place(name, seed) for name in names}
    for name, place in places.items():
        lists["val" if place < val else "test" if place < val + test else "train"].append(name)
    kinds = {name: frozenset((holds or {}).get(name, ())) for name in names}
    train = lists["train"]
    often = Counter(kind for name in train for kind in kinds[name])
    if not lists["val"] and val * len(names) >= 1 and len(train) > 1:
        spared = [name for name in train if all(often[kind] > 1 for kind in kinds[name])] or train
        nearest = min(spared, key=places.__getitem__)
        train.remove(nearest)
        lists["val"].append(nearest)
        often.subtract(kinds[nearest])
    for split in ("val", "test") if train else ():
        for name in sorted(lists[split], key=places.__getitem__, reverse=True):
            if len(lists[split]) > 1 and any(not often[kind] for kind in kinds[name]):
                lists[split].remove(name)
                train.append(name)
                often.update(kinds[name])
    return {split: ids for split, ids in lists.items() if ids or split != "test"}


def _place(name: str, seed: int | None) -> float:
    """Return the place of a name between 0 and 1."""
    seeded = name if seed is None else f"{seed} {name}"
    return int.from_bytes(hashlib.sha256(seeded.encode()).digest()[:8], "big") / 2**64


def check_lists(
    lists: Mapping[str, Sequence[str]], where: Path | str, remedy: str, shared: Collection[str] = ()
) -> None:
    """Raise an error for empty splits, and for images that are in two of them.

    Args:
        lists: split → names of its images.
        where: the dataset or the options that the splits come from, for messages.
        remedy: how images get into a split in this format, with ``{split}`` and ``{all}`` to be filled in.
        shared: splits that were shared out by the shares of the dataset, which have a remedy of their own.

    Raises:
        UserError: names the split, and the remedy.
    """
    total = sum(map(len, lists.values()))
    for split, ids in lists.items():
        if not ids:
            share = BY_SHARE if split != "train" else ALL_SHARED
            message = (share if total and split in shared else remedy).format(split=split, all=total)
            raise UserError(f"{where}: the split {split!r} holds no images; {message}")
    splits = list(lists)
    for one, other in ((a, b) for i, a in enumerate(splits) for b in splits[i + 1 :]):
        if both := sorted(set(lists[one]) & set(lists[other])):
            shared = f"{len(both)} images are in {one} and in {other} (the first: {both[0]!r})"
            raise UserError(f"{where}: {shared}; what is trained on cannot tell how accurate the result is")


class SplitFields(Protocol):
    """Fields of a dataset that name its splits, and shares of what is taken for them where there is none."""

    @property
    def val_share(self) -> float:
        """Share of the training images for val."""

    @property
    def test_share(self) -> float:
        """Share of the training images for test."""

    def chosen(self, role: str) -> str | None:
        """Return the name of the split that is asked for as train, val or test, or None."""


@dataclass(frozen=True)
class ChosenSplits:
    """The images of each split."""

    lists: Mapping[str, Sequence[RawImage]]
    notes: Sequence[str]
    """Notes on how they were chosen."""
    shared: frozenset[str]
    """Splits that were shared out by a hash, not named by the folder."""


def choose_splits(dataset: SplitFields, survey: Survey, only: str | None = None) -> ChosenSplits:
    """Return the images of train, val and test.

    Args:
        dataset: its fields name splits, and shares where there is none to take.
        survey: what was read.
        only: the split that is asked for, where there may be none to train on; None: all.

    Raises:
        UserError: a split that is named is not there, none is there to train on, or one is taken twice.
    """
    choice = _Choice(dataset, survey, only, frozenset(survey.shared))
    return ChosenSplits(choice.lists(), choice.notes, choice.shared)


@dataclass
class _Choice:
    dataset: SplitFields
    survey: Survey
    only: str | None
    shared: frozenset[str]
    notes: list[str] = field(default_factory=list)

    def lists(self) -> dict[str, list[RawImage]]:
        """Return the images of train, val and test."""
        parts: dict[str, list[RawImage]] = {name: [] for name in self.survey.splits}
        for image in self.survey.images:
            for name in image.splits:
                parts[name].append(image)
        root = self.survey.root
        if not parts:  # a folder without splits; images that nothing is said of belong to none
            images = [image for image in self.survey.images if image.annotation != image.file or image.relative]
            return self._shared_out(images, self.dataset.test_share)
        chosen = {role: self._chosen(role, parts) for role in ("train", "val", "test")}
        if self.only is not None and chosen["train"] is None and (alone := chosen.get(self.only)):
            return {self.only: parts[alone]}
        train = chosen["train"] or (next(iter(parts)) if len(parts) == 1 else None)
        if train is None:
            raise UserError(f"{root}: no split to train on; splits there: {', '.join(parts)}; name one as `train`")
        others = {role: name for role, name in chosen.items() if role != "train" and name is not None}
        share = self.dataset.test_share if len(parts) == 1 else 0.0
        if "val" in others:
            lists = {"train": parts[train]}
        else:
            lists = self._shared_out(parts[train], share)
            self.shared -= others.keys()
        lists |= {role: parts[name] for role, name in others.items()}
        if len(set(names := [train, *others.values()])) < len(names):
            raise UserError(f"{root}: train, val and test must be three different splits, and are {', '.join(names)}")
        if unused := [f"{name} ({len(images)} images)" for name, images in parts.items() if name not in names]:
            self.notes.append(f"splits that are not used: {', '.join(unused)}")
        return lists

    def _chosen(self, role: str, parts: Mapping[str, Sequence[RawImage]]) -> str | None:
        split = self.dataset.chosen(role)
        if split is None:
            return next((name for name in parts if name.startswith(role)), None)
        if split not in parts:
            known = f"{', '.join(parts)}{did_you_mean(split, parts)}"
            raise UserError(f"{self.survey.root}: no split {split!r} for `{role}`; splits there: {known}")
        return split

    def _shared_out(self, images: Sequence[RawImage], test_share: float) -> dict[str, list[RawImage]]:
        named = unique_ids([image.file for image in images], Path(self.survey.root))
        of = {named[image.file]: image for image in images}
        holds = {name: {box.name for box in image.boxes if not box.ignore} for name, image in of.items()}
        lists = share_out(sorted(of), self.dataset.val_share, test_share, holds)
        self.shared = frozenset(lists)
        counts = ", ".join(f"{split} {len(ids)}" for split, ids in lists.items())
        self.notes.append(f"images were shared out by a hash of their names ({counts})")
        return {split: [of[name] for name in ids] for split, ids in lists.items()}


def split_by_hash(data: Data, val: float, test: float, seed: int) -> Data:
    """Return a dataset with new splits, by ``share_out``; its own splits are joined.

    Args:
        data: what is split.
        val: share of the images for val.
        test: share of the images for test.
        seed: another one gives other splits.

    Raises:
        UserError: a split would be empty, or two images have the same name.
    """
    if not (val > 0 and test >= 0 and val + test < 1):
        raise UserError(f"--val {val:g} --test {test:g}: val must be above 0, and something must be left for train")
    images = {name: (split, index) for split in data.splits.values() for index, name in enumerate(split.ids)}
    if len(images) < (total := sum(map(len, data.splits.values()))):
        raise UserError(f"{total} images have only {len(images)} names: a split is made by the names")
    lists = share_out(list(images), val, test, {name: _classes_in(*image) for name, image in images.items()}, seed)
    remedy = "of {all} images none fell to it by a hash of their names: give it a larger share, or add images"
    check_lists(lists, f"--val {val:g} --test {test:g}", remedy)
    splits: dict[str, Split] = {
        split: MergedSplit(data.classes, tuple(names), tuple(images[name] for name in names))
        for split, names in lists.items()
    }
    return replace(data, splits=splits, facts=object_counts(splits))


def _classes_in(split: Split, index: int) -> set[str]:
    truth = split.annotations(index)
    return {split.classes[label] for label in truth.labels[~truth.ignore]}


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
        UserError: there is none of that name; lists the splits.
    """
    if name not in data.splits:
        hint = did_you_mean(name, data.splits)
        message = f"--split {name}: no such split{hint}; the dataset has {', '.join(data.splits)}"
        raise UserError(
            "\n".join([message, *(note for note in data.notes if READ_ALL_THE_SAME["missing-split"] in note)])
        )
    return data.splits[name]
