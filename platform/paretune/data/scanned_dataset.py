"""Datasets that are read leniently first: a check reports what opening them refuses or leaves out."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from paretune.core.errors import UserError, did_you_mean
from paretune.core.hints import command
from paretune.core.spec import fingerprint
from paretune.core.types import Annotations, Data, Split
from paretune.data.box_checks import CUT, in_pixels, kinds_of, over_edge, reaches, unit_problem
from paretune.data.file_io import is_there
from paretune.data.folder_dataset import MOST_PROBLEMS, FolderDataset
from paretune.data.image_io import image_header
from paretune.data.image_split import ImageFileSplit, unique_ids
from paretune.data.left_out import LeftOutCounter, SplitTally, gaps_of, left_out_line
from paretune.data.raw_annotations import LEFT_OUT, READ_ALL_THE_SAME, Finding, RawBox, RawImage, Survey
from paretune.data.splits import check_lists, choose_splits
from paretune.data.statistics import object_counts

NEVER_SKIPPED = frozenset({"bad-list", "leak", "other-unit"})
"""Findings that cannot be left out: which images are in which split, or what the numbers are, is not known."""
UNTURNED = "pictures are left unturned: their annotations give the size of the unturned ones"
MOST_HEADERS = 5000
"""Image headers that are read; of larger splits a part evenly spread, and the annotation's word for the rest."""


class ScannedDataset(FolderDataset):
    """A dataset in a folder, with a lenient reader."""

    train: str | None = None
    """Split to train on; without it, the one whose name begins with train, or the only one."""
    val: str | None = None
    """Split that versions are chosen by; without it, the one whose name begins with val, else a share of train."""
    test: str | None = None
    """Split that no search looks at; without it, the one whose name begins with test, if there is one."""
    policy: Literal["strict", "skip"] = "strict"
    """What to do with entries that cannot be read: refuse the dataset, or leave them out, counted. An image from which
    an object is left out leaves its split: that object would be taught, and judged, as background."""
    allow_missing: bool = False
    """Train though a split has no object, a class none in train, or more than a fifth of a split is left out."""

    to_fill_a_split: ClassVar[str]
    """How images get into a split that has none, with ``{split}`` to be filled in."""

    @abstractmethod
    def survey(self) -> Survey:
        """Read all that can be read."""

    def unreadable(self) -> list[str]:
        """Return why nothing of it can be read, one line each: no such folder, or of another layout."""
        return self.problems()

    @property
    def place(self) -> Path:
        """What ``paretune data check`` is to be given: its folder, or the file that describes it."""
        return self.folder

    def chosen(self, role: str) -> str | None:
        """Return the survey's split that is asked for as train, val or test; None takes the one of such a name."""
        named: str | None = getattr(self, role)
        return named

    def open(self, cache: Path) -> Data:  # noqa: ARG002 - nothing is generated
        """Read every annotation; pixels are read when they are asked for.

        Raises:
            UserError: what hinders training, file by file, unless the policy is to skip it; or no such split.
        """
        return self._opened()

    def open_for(self, split: str, cache: Path) -> Data:  # noqa: ARG002 - nothing is generated
        """Open one split alone of a folder that holds nothing to train on.

        Raises:
            UserError: as ``open``.
        """
        return self._opened(split)

    def _opened(self, only: str | None = None) -> Data:
        if problems := self.problems():
            raise UserError("\n".join(problems))
        return _Opening(self, survey_dataset(self), only).data()


def survey_dataset(dataset: ScannedDataset) -> Survey:
    """Read a dataset leniently, with the classes that its fields allow; boxes of other classes are kept."""
    if messages := dataset.unreadable():
        raise UserError("\n".join(messages))
    try:
        read = dataset.survey()
    except OSError as error:  # a folder that may not be read
        raise UserError(f"{error.filename or dataset.folder}: cannot be read ({error.strerror})") from error
    return replace(read, classes=dataset.classes or read.classes)


def gaps(dataset: ScannedDataset, read: Survey) -> list[Finding]:
    """Return what would stop a training on what can be read of a dataset: for ``paretune data check``."""
    try:
        data = _Opening(dataset.model_copy(update={"policy": "skip"}), read).data()
    except UserError as error:
        return [Finding("bad-list", read.root, "", line) for line in str(error).splitlines()]
    kind = "allowed-gap" if dataset.allow_missing else "gap"
    return [Finding(kind, read.root, "", gap) for gap in data.gaps]


@dataclass
class _Opening:
    """One dataset on its way from what is written to what can be trained on."""

    dataset: ScannedDataset
    survey: Survey
    only: str | None = None
    """The split that is asked for; None: all."""
    refused: list[Finding] = field(default_factory=list)
    ledger: LeftOutCounter = field(default_factory=LeftOutCounter)
    tallies: dict[str, SplitTally] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    """Number of images by the note on their size."""

    def data(self) -> Data:
        for finding in self.survey.findings:
            self._take(finding)
        if any(finding.kind in NEVER_SKIPPED for finding in self.refused):
            self._end()
        chosen = choose_splits(self.dataset, self.survey, self.only)
        lists, self.notes = chosen.lists, [*self.survey.notes, *chosen.notes]
        for name, images in lists.items():
            if (message := unit_problem(name, images)) is not None:
                self._refuse(Finding("other-unit", self.survey.root, "", message))
        used = [image for images in lists.values() for image in images]
        classes = self._classes(used)
        names = unique_ids([image.file for image in used], Path(self.survey.root))
        splits = {
            name: self._split(name, classes, images, names, 1 + len(used) // MOST_HEADERS)
            for name, images in lists.items()
        }
        if self.refused:
            self._end()
        ids = {name: split.ids for name, split in splits.items()}
        try:
            check_lists(ids, Path(self.survey.root), self.dataset.to_fill_a_split, chosen.shared)
        except UserError as error:
            raise UserError(f"{error}{self._lost()}") from error
        counts = object_counts(splits)
        if not any(counts[f"boxes_{name}"] for name in splits):
            raise UserError(f"{self.survey.root}: no objects in any annotation{self._lost()}")
        self.notes += [f"{count} {message}" for message, count in self.sizes.items() if count]
        digests = {name: [split.digest(index) for index in range(len(split))] for name, split in splits.items()}
        objects = {name: {kind: counts[f"boxes_{name}_{kind}"] for kind in classes} for name in splits}
        return Data(
            classes=classes,
            splits=dict[str, Split](splits),
            fingerprint=fingerprint(classes, digests),
            notes=(*self.notes, *self.ledger.notes),
            left_out=self.ledger.left_out,
            gaps=gaps_of(self.tallies, objects),
            facts=counts,
        )

    def _take(self, finding: Finding) -> None:
        """Refuse what hinders training, and count what is left out or read otherwise."""
        if finding.hinders:
            self._refuse(finding)
        elif finding.kind in READ_ALL_THE_SAME:
            self.ledger.read(finding.kind, finding.place)
        elif finding.kind in LEFT_OUT:
            self.ledger.leave("images", finding.kind, finding.place)

    @cached_property
    def _broken(self) -> tuple[Mapping[str, list[Finding]], Counter[str]]:
        """Return what hinders in annotation files of one image, and the boxes of others that belong to no image."""
        images = Counter(str(image.annotation) for image in self.survey.images)
        own: dict[str, list[Finding]] = defaultdict(list)
        lost: Counter[str] = Counter()
        of_images = {finding for image in self.survey.images for finding in image.broken}
        for finding in self.survey.findings:
            if finding.hinders and images[finding.file] == 1:
                own[finding.file].append(finding)
            elif finding.hinders and finding.what == "boxes" and finding not in of_images:
                lost[finding.file] += 1
        return own, lost

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
    ) -> ImageFileSplit:
        numbers = {known: index for index, known in enumerate(classes)}
        kept, sizes, truth = [], [], []
        own, lost = self._broken
        tally = self.tallies[name] = SplitTally(len(images))
        for file in {str(image.annotation) for image in images}:
            tally.boxes, tally.boxes_gone = tally.boxes + lost[file], tally.boxes_gone + lost.pop(file, 0)
        for index, image in enumerate(images):
            broken = image.broken or own.get(str(image.annotation), ())
            tally.boxes += (boxes := len(image.boxes) + sum(finding.what == "boxes" for finding in broken))
            size = self._size(image, ask=index % step == 0)
            annotation = None if size is None else self._truth(image, size, numbers, tally)
            if size is None or annotation is None or broken:
                tally.images_gone += 1
                tally.boxes_gone += boxes
                if size is not None and not any(finding.what == "images" for finding in broken):
                    self.ledger.leave("images", "object", str(image.file))
                continue
            kept.append(image)
            sizes.append(size)
            truth.append(annotation)
        ids = tuple(names[image.file] for image in kept)
        if len(set(ids)) < len(ids):
            self._refuse(Finding("bad-list", self.survey.root, "", f"an image is twice in the split {name}"))
        return ImageFileSplit(classes, ids, tuple(image.file for image in kept), tuple(sizes), tuple(truth))

    def _size(self, image: RawImage, *, ask: bool) -> tuple[int, int] | None:
        """Return the size of an image; None, and a finding, for one that cannot be read."""
        if not is_there(image.file):
            self._refuse(Finding("missing-image", str(image.annotation), "", f"no image {image.file}"))
            return None
        if image.annotated_size is not None and not ask:
            return image.annotated_size
        try:
            header = image_header(image.file)
        except UserError as error:
            reason = str(error).removeprefix(f"{image.file}: ")
            self._refuse(Finding("unreadable-image", str(image.file), "", reason))
            return None
        size = header.size(image.annotated_size)
        turned, asked = header.turned(image.annotated_size), header.orientation != 1
        resized = image.annotated_size not in (None, size)
        self.sizes["images do not have the size that their annotations give"] += resized
        self.sizes["pictures are turned as EXIF says"] += turned
        self.sizes[UNTURNED] += asked and not turned
        return size

    def _truth(
        self, image: RawImage, size: tuple[int, int], numbers: Mapping[str, int], tally: SplitTally
    ) -> Annotations | None:
        """Return the objects of an image; None, and a finding, where one of them cannot be trained on."""
        kept: list[RawBox] = []
        corners: list[tuple[float, float, float, float]] = []
        refused = nothing = 0
        for box in image.boxes:
            place = f"{image.annotation}: {box.where}"
            placed = in_pixels(image, box, size)
            kinds = kinds_of(box, placed, size)
            if placed is None or "bad-box" in kinds:
                refused += 1
                self._refuse(Finding("bad-box", str(image.annotation), box.where, "a coordinate is no number"))
            elif box.name not in numbers and self._unwanted(box.name):
                self.ledger.leave("boxes", "unknown-class", place)
            elif box.name not in numbers:
                refused += 1
                hint = did_you_mean(box.name, numbers)
                message = f"class {box.name!r} is not among {', '.join(numbers)}{hint}"
                self._refuse(Finding("unknown-class", str(image.annotation), box.where, message))
            elif "empty-box" in kinds or not reaches(placed, size):
                nothing += 1
                self.ledger.leave("boxes", "empty-box" if "empty-box" in kinds else "outside-box", place)
            else:
                if "inverted-box" in kinds:
                    self.ledger.read("inverted-box", place)
                if over_edge(placed, size) > CUT:
                    self.ledger.read("outside-box", place)
                kept.append(box)
                corners.append(placed)
        if refused:
            return None
        tally.boxes_gone += nothing
        boxes = np.clip(np.array(corners, np.float64).reshape(-1, 4), 0, [*size, *size])
        own = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1).tolist()
        areas = [area if box.area is None else box.area for box, area in zip(kept, own, strict=True)]
        return Annotations(
            boxes=boxes.astype(np.float32),
            labels=np.array([numbers[box.name] for box in kept], np.int64),
            ignore=np.array([box.ignore for box in kept], bool),
            areas=np.array(areas, np.float32) if any(box.area is not None for box in kept) else None,
        )

    def _unwanted(self, name: str) -> bool:
        """Return whether a class is background: not among the asked ones; a number without a name is a mistake."""
        asked = self.dataset.policy == "skip" and self.dataset.classes is not None
        return asked and not name.startswith(("class ", "category "))

    def _refuse(self, finding: Finding) -> None:
        if self.dataset.policy == "skip" and finding.kind not in NEVER_SKIPPED:
            self.ledger.leave(finding.what, finding.kind, finding.place)
        else:
            self.refused.append(finding)

    def _lost(self) -> str:
        """Return what was left out, behind a message."""
        message = left_out_line(self.ledger.left_out)
        return f"; {message}" if message else ""

    def _end(self) -> None:
        lines = [str(finding) for finding in dict.fromkeys(self.refused)]
        more = [f"{self.survey.root}: {len(lines) - MOST_PROBLEMS} more"] if len(lines) > MOST_PROBLEMS else []
        skippable = all(finding.kind not in NEVER_SKIPPED for finding in self.refused)
        every = command("data", "check", self.dataset.place, "--from", self.dataset.name)
        hint = [f"`policy: skip` leaves such entries out; `{every}` tells them all"] if skippable else []
        raise UserError("\n".join([*lines[:MOST_PROBLEMS], *more, *hint]))
