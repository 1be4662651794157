"""The check as a whole: from a dataset to its report."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.data.base import Dataset
from paretune.data.box_checks import check_boxes, unit_problem
from paretune.data.checks.duplicates import check_repeated
from paretune.data.checks.image_files import ImageInfo, inspect_images
from paretune.data.raw_annotations import KINDS, Finding, RawBox, RawImage, Survey
from paretune.data.scanned_dataset import ScannedDataset, gaps, survey_dataset


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset holds, and every defect found in it."""

    survey: Survey
    infos: Mapping[Path, ImageInfo]
    findings: Sequence[Finding]
    """Findings that hinder training first, then by kind, file and place."""

    @property
    def hinders(self) -> bool:
        """Return whether any defect hinders training."""
        return any(finding.hinders for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """Number of defects by kind, in the order of ``KINDS``, without those that did not occur."""
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}

    @property
    def classes(self) -> dict[str, int]:
        """Number of boxes by class, as written; allowed classes that do not occur have none."""
        counted = Counter(box.name for image in self.survey.images for box in image.boxes)
        names = dict.fromkeys([*(self.survey.classes or ()), *sorted(counted)])
        return {name: counted[name] for name in names}

    @property
    def splits(self) -> dict[str, dict[str, int]]:
        """Images and boxes of each split."""
        members = {name: [i for i in self.survey.images if name in i.splits] for name in self.survey.splits}
        return {
            name: {"images": len(images), "boxes": sum(len(image.boxes) for image in images)}
            for name, images in members.items()
        }

    def tree(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "images": len(self.survey.images),
            "boxes": sum(len(image.boxes) for image in self.survey.images),
            "classes": self.classes,
            "splits": self.splits,
            "hinders": self.hinders,
            "defects": [finding.tree() for finding in self.findings],
            "counts": self.counts,
        }


@contextmanager
def checked_dataset(
    dataset: Dataset, near: int = 0, progress: Callable[[int, int], None] = lambda *_: None
) -> Iterator[DatasetReport]:
    """Yield the report of every defect of a dataset; generated images exist within the block.

    Args:
        dataset: any row of ``DATASETS``.
        near: most bits (of 64) in which the hashes of nearly the same images differ.
        progress: called with the number of images done and of all.

    Raises:
        UserError: its folder is not there, or of another format.
    """
    with tempfile.TemporaryDirectory() as cache:  # holds what is generated
        if not isinstance(dataset, ScannedDataset):
            yield check_survey(_opened(dataset, Path(cache)), near, progress)
            return
        survey = survey_dataset(dataset)
        report = check_survey(survey, near, progress)
        if not report.hinders or dataset.policy == "skip":
            report = replace(report, findings=_sorted([*report.findings, *gaps(dataset, survey)]))
        yield report


def _opened(dataset: Dataset, cache: Path) -> Survey:
    """Return what a dataset without a lenient reader holds; what it refuses to open becomes findings, one a line."""
    try:
        data = dataset.open(cache)
    except UserError as error:
        lines = str(error).splitlines()
        return Survey(
            dataset.name, [], [Finding("unreadable-annotation", dataset.name, "", line) for line in lines], []
        )
    images, pixels = [], {}
    for name, split in data.splits.items():
        for index, image_id in enumerate(split.ids):
            truth = split.annotations(index)
            file = Path(f"{dataset.name}/{name}/{image_id}")
            boxes = tuple(
                RawBox(data.classes[label], (float(x1), float(y1), float(x2), float(y2)), f"object {number}")
                for number, (label, (x1, y1, x2, y2)) in enumerate(zip(truth.labels, truth.boxes, strict=True), start=1)
            )
            images.append(RawImage(file, file, boxes, split.size(index), splits=(name,)))
            pixels[file] = partial(split.image, index)
    return Survey(dataset.name, images, [], list(data.splits), data.classes, pixels)


def check_survey(
    survey: Survey, near: int = 0, progress: Callable[[int, int], None] = lambda *_: None
) -> DatasetReport:
    """Find every defect of a dataset that was read leniently; see ``checked_dataset``."""
    infos = inspect_images(survey.images, survey.pixels, progress)
    findings = [*survey.findings, *check_repeated(survey.images, infos, near), *_of_images(survey, infos)]
    if not any(image.boxes for image in survey.images):
        findings.append(Finding("no-objects", survey.root, "", "no annotation holds an object that can be read"))
    units = (unit_problem(split, [i for i in survey.images if split in i.splits]) for split in survey.splits)
    findings += [Finding("other-unit", survey.root, "", message) for message in units if message is not None]
    return DatasetReport(survey, infos, _sorted(findings))


def _sorted(findings: Iterable[Finding]) -> list[Finding]:
    """Return each finding once, those that hinder first, then by kind, file and place."""
    rank = {kind: number for number, kind in enumerate(KINDS)}
    return sorted(set(findings), key=lambda f: (not f.hinders, rank[f.kind], f.file, f.where))


def _of_images(survey: Survey, infos: Mapping[Path, ImageInfo]) -> Iterator[Finding]:
    classes = None if survey.classes is None else set(survey.classes)
    for image in survey.images:
        info = infos[image.file]
        yield from (_at_annotation(finding, image) for finding in info.findings)
        yield from check_boxes(image, info.size, classes)
        if image.annotated_size and info.size and image.annotated_size != info.size:
            stated, real = (f"{width} x {height}" for width, height in (image.annotated_size, info.size))
            yield Finding("other-size", str(image.annotation), "", f"it says {stated} pixels; {image.file} has {real}")


def _at_annotation(finding: Finding, image: RawImage) -> Finding:
    """Return a finding with the annotation in place of a missing image: there is no other file to info into."""
    if finding.kind != "missing-image":
        return finding
    return Finding(finding.kind, str(image.annotation), "", f"its image is not there: {image.file}")
