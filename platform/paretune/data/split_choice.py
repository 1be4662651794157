"""Which of the splits that a folder tells are train, val and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from paretune.core.errors import UserError, did_you_mean
from paretune.data.image_split import unique_ids
from paretune.data.raw_annotations import RawImage, Survey
from paretune.data.split_lists import share_out


class SplitFields(Protocol):
    """Fields of a dataset that name its splits, and shares of what is taken for them where there is none."""

    @property
    def val_share(self) -> float:
        """Share of the training images for val."""

    @property
    def test_share(self) -> float:
        """Share of the training images for test."""

    def chosen(self, role: str) -> str | None:
        """Return the split that is asked for as train, val or test."""


@dataclass(frozen=True)
class ChosenSplits:
    """The images of each split."""

    lists: Mapping[str, Sequence[RawImage]]
    notes: Sequence[str]
    """What is to be told of how they were chosen."""
    shared: frozenset[str]
    """Splits that were shared out, not told by the folder."""


def choose(dataset: SplitFields, survey: Survey, only: str | None = None) -> ChosenSplits:
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
        wanted = self.dataset.chosen(role)
        if wanted is None:
            return next((name for name in parts if name.startswith(role)), None)
        if wanted not in parts:
            known = f"{', '.join(parts)}{did_you_mean(wanted, parts)}"
            raise UserError(f"{self.survey.root}: no split {wanted!r} for `{role}`; splits there: {known}")
        return wanted

    def _shared_out(self, images: Sequence[RawImage], test_share: float) -> dict[str, list[RawImage]]:
        named = unique_ids([image.file for image in images], Path(self.survey.root))
        of = {named[image.file]: image for image in images}
        holds = {name: {box.name for box in image.boxes if not box.ignore} for name, image in of.items()}
        lists = share_out(sorted(of), self.dataset.val_share, test_share, holds)
        self.shared = frozenset(lists)
        counts = ", ".join(f"{split} {len(ids)}" for split, ids in lists.items())
        self.notes.append(f"images were shared out by a hash of their names ({counts})")
        return {split: [of[name] for name in ids] for split, ids in lists.items()}
