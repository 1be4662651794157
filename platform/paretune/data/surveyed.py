"""Datasets that are read leniently first: what a check tells of them is what opening them refuses or leaves out."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from paretune.data.checking.boxes import in_pixels
from paretune.data.checking.findings import Finding, RawBox, RawImage, Survey
from paretune.data.foldered import MOST_PROBLEMS, Foldered
from paretune.data.images import image_size
from paretune.data.photographs import Photographs, unique_ids
from paretune.data.summary import facts
from paretune.data.voclists import check_lists, share_out
from paretune.errors import UserError, did_you_mean
from paretune.hints import command
from paretune.spec import fingerprint
from paretune.structures import Annotations, Data, Split

NEVER_SKIPPED = frozenset({"bad-list", "leak"})
"""Findings that cannot be left out of a dataset: which images are in which split is not known."""
MOST_HEADERS = 5000
"""Image headers that are read; of larger splits a part evenly spread, and the annotation's word for the rest."""


class Surveyed(Foldered):
    """A dataset in a folder, with a lenient reader."""

    train: str | None = None
    """Split to train on; without it, the one whose name begins with train, or the only one."""
    val: str | None = None
    """Split that versions are chosen by; without it, the one whose name begins with val, else a share of train."""
    test: str | None = None
    """Split that no search looks at; without it, the one whose name begins with test, if there is one."""
    policy: Literal["strict", "skip"] = "strict"
    """What to do with entries that cannot be trained on: refuse the dataset, or leave them out, counted."""

    to_fill_a_split: ClassVar[str]
    """How images get into a split that has none, with ``{split}`` to be filled in."""

    @abstractmethod
    def survey(self) -> Survey:
        """Read all that can be read."""

    def open(self, cache: Path) -> Data:  # noqa: ARG002 - nothing is generated
        """Read every annotation; pixels are read when they are asked for.

        Raises:
            UserError: what hinders training, file by file, unless the policy is to skip it; or no such split.
        """
        if found := self.problems():
            raise UserError("\n".join(found))
        return _Opening(self, self.survey()).data()

    def open_for(self, split: str, cache: Path) -> Data:  # noqa: ARG002 - nothing is generated
        """Open one split alone of a folder that holds nothing to train on.

        Raises:
            UserError: as of ``open``.
        """
        if found := self.problems():
            raise UserError("\n".join(found))
        return _Opening(self, self.survey(), split).data()


def survey(dataset: Surveyed) -> Survey:
    """Read a dataset leniently: for ``paretune data check``, which tells boxes of other classes than it asks for."""
    if found := dataset.problems():
        raise UserError("\n".join(found))
    read = dataset.survey()
    return replace(read, classes=dataset.classes or read.classes)


@dataclass
class _Opening:
    """One dataset on its way from what is written to what can be trained on."""

    dataset: Surveyed
    survey: Survey
    only: str | None = None
    """The split that is asked for; None: all."""
    refused: list[Finding] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    shared: frozenset[str] = frozenset()
    """Splits that were shared out, not told by the folder."""
    other_size: int = 0
    """Images whose headers tell another size than their annotations."""

    def data(self) -> Data:
        for finding in self.survey.findings:
            if finding.hinders:
                self._refuse(finding)
        lists = self._lists()
        used = [image for images in lists.values() for image in images]
        classes = self._classes(used)
        names = unique_ids([image.file for image in used], Path(self.survey.root))
        splits: dict[str, Split] = {
            name: self._split(name, classes, images, names, 1 + len(used) // MOST_HEADERS)
            for name, images in lists.items()
        }
        if self.refused:
            self._end()
        ids = {name: split.ids for name, split in splits.items()}
        check_lists(ids, Path(self.survey.root), self.dataset.to_fill_a_split, self.shared)
        counts = facts(splits)
        if not any(counts[f"boxes_{name}"] for name in splits):
            raise UserError(f"{self.survey.root}: no objects in any annotation")
        told = [f"{count} {what} were left out" for what, count in sorted(self.left_out.items())]
        if self.other_size:
            told.append(f"{self.other_size} images do not have the size that their annotations give")
        digests = {name: [self._digest(split, index) for index in range(len(split))] for name, split in splits.items()}
        return Data(
            classes=classes,
            splits=splits,
            fingerprint=fingerprint(classes, digests),
            notes=(*self.notes, *told),
            facts=counts,
        )

    def _lists(self) -> dict[str, list[RawImage]]:
        """Return the images of train, val and test."""
        self.notes: list[str] = []
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
        lists = {"train": parts[train]} if "val" in others else self._shared_out(parts[train], share)
        lists |= {role: parts[name] for role, name in others.items()}
        self.shared -= others.keys()
        if len(set(names := [train, *others.values()])) < len(names):
            raise UserError(f"{root}: train, val and test must be three different splits, and are {', '.join(names)}")
        return lists

    def _chosen(self, role: str, parts: Mapping[str, Sequence[RawImage]]) -> str | None:
        wanted = getattr(self.dataset, role)
        if wanted is None:
            return next((name for name in parts if name.startswith(role)), None)
        if wanted not in parts:
            known = f"{', '.join(parts)}{did_you_mean(wanted, parts)}"
            raise UserError(f"{self.survey.root}: no split {wanted!r} for `{role}`; splits there: {known}")
        return str(wanted)

    def _shared_out(self, images: Sequence[RawImage], test_share: float) -> dict[str, list[RawImage]]:
        named = unique_ids([image.file for image in images], Path(self.survey.root))
        of = {named[image.file]: image for image in images}
        lists = share_out(sorted(of), self.dataset.val_share, test_share)
        self.shared = frozenset(lists)
        counts = ", ".join(f"{split} {len(ids)}" for split, ids in lists.items())
        self.notes.append(f"images were shared out by a hash of their names ({counts})")
        return {split: [of[name] for name in ids] for split, ids in lists.items()}

    def _classes(self, images: Sequence[RawImage]) -> tuple[str, ...]:
        known = self.dataset.classes or self.survey.classes
        return tuple(known) if known else tuple(sorted({box.name for image in images for box in image.boxes}))

    def _split(
        self,
        name: str,
        classes: tuple[str, ...],
        images: Sequence[RawImage],
        names: Mapping[Path, str],
        step: int,
    ) -> Photographs:
        numbers = {known: index for index, known in enumerate(classes)}
        kept, sizes, truth = [], [], []
        for index, image in enumerate(images):
            size = self._size(image, ask=index % step == 0)
            if size is not None:
                kept.append(image)
                sizes.append(size)
                truth.append(self._truth(image, size, numbers))
        ids = tuple(names[image.file] for image in kept)
        if len(set(ids)) < len(ids):
            self._refuse(Finding("bad-list", self.survey.root, "", f"an image is twice in the split {name}"))
        return Photographs(classes, ids, tuple(image.file for image in kept), tuple(sizes), tuple(truth))

    def _size(self, image: RawImage, *, ask: bool) -> tuple[int, int] | None:
        """Return the size of an image; None, and a finding, for one that cannot be read."""
        if not image.file.is_file():
            self._refuse(Finding("missing-image", str(image.annotation), "", f"no image {image.file}"))
            return None
        if image.told_size is not None and not ask:
            return image.told_size
        try:
            size = image_size(image.file)
        except UserError as error:
            reason = str(error).removeprefix(f"{image.file}: ")
            self._refuse(Finding("unreadable-image", str(image.file), "", reason))
            return None
        self.other_size += image.told_size not in (None, size)
        return size

    def _truth(self, image: RawImage, size: tuple[int, int], numbers: Mapping[str, int]) -> Annotations:
        kept: list[RawBox] = []
        corners: list[tuple[float, float, float, float]] = []
        for box in image.boxes:
            placed = in_pixels(image, box, size)
            if placed is None or not all(map(math.isfinite, placed)):
                self._refuse(Finding("bad-box", str(image.annotation), box.where, "a coordinate is no number"))
            elif box.name not in numbers:
                hint = did_you_mean(box.name, numbers)
                message = f"class {box.name!r} is not among {', '.join(numbers)}{hint}"
                self._refuse(Finding("unknown-class", str(image.annotation), box.where, message))
            elif not _has_area(placed, size):
                self.left_out["boxes without area in the image"] += 1
            else:
                kept.append(box)
                corners.append(placed)
        boxes = np.clip(np.array(corners, np.float64).reshape(-1, 4), 0, [*size, *size])
        own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).tolist()
        areas = [area if box.area is None else box.area for box, area in zip(kept, own, strict=True)]
        return Annotations(
            boxes=boxes.astype(np.float32),
            labels=np.array([numbers[box.name] for box in kept], np.int64),
            ignore=np.array([box.ignore for box in kept], bool),
            areas=np.array(areas, np.float32) if any(box.area is not None for box in kept) else None,
        )

    def _digest(self, split: Split, index: int) -> str:
        truth = split.annotations(index)
        file = split.file(index)
        assert file is not None  # noqa: S101 - photographs are files
        return fingerprint(
            split.ids[index], file.stat().st_size, truth.boxes.tolist(), truth.labels.tolist(), truth.ignore.tolist()
        )

    def _refuse(self, finding: Finding) -> None:
        if self.dataset.policy == "skip" and finding.kind not in NEVER_SKIPPED:
            self.left_out[f"entries ({finding.kind})"] += 1
        else:
            self.refused.append(finding)

    def _end(self) -> None:
        told = [str(finding) for finding in dict.fromkeys(self.refused)]
        more = [f"{self.survey.root}: {len(told) - MOST_PROBLEMS} more"] if len(told) > MOST_PROBLEMS else []
        skippable = all(finding.kind not in NEVER_SKIPPED for finding in self.refused)
        every = command("data", "check", self.dataset.folder, "--from", self.dataset.name)
        hint = [f"`policy: skip` leaves such entries out; `{every}` tells them all"] if skippable else []
        raise UserError("\n".join([*told[:MOST_PROBLEMS], *more, *hint]))


def _has_area(box: tuple[float, float, float, float], size: tuple[int, int]) -> bool:
    x1, y1, x2, y2 = box
    return x2 > x1 and y2 > y1 and x1 < size[0] and y1 < size[1] and x2 > 0 and y2 > 0
