"""Images that are there twice: in two splits, or in one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from paretune.data.checks.image_files import ImageInfo
from paretune.data.raw_annotations import Finding, RawImage

_ROWS = 512
"""Hashes compared with all others at a time: bounds the memory."""


def check_repeated(images: Sequence[RawImage], infos: Mapping[Path, ImageInfo], near: int) -> list[Finding]:
    """Return findings for images of the same content, and for nearly the same images in two splits.

    Args:
        images: of all splits.
        infos: by file.
        near: most bits (of 64) in which the difference hashes of nearly the same images differ.
    """
    return [*_in_two_splits(images), *_same_content(images, infos), *_nearly_same(images, infos, near)]


def _in_two_splits(images: Sequence[RawImage]) -> Iterator[Finding]:
    for image in images:
        if len(image.splits) > 1:
            yield Finding("leak", str(image.file), "", f"it is in the splits {' and '.join(image.splits)}")


def _same_content(images: Sequence[RawImage], infos: Mapping[Path, ImageInfo]) -> Iterator[Finding]:
    groups: dict[str, list[RawImage]] = defaultdict(list)
    for image in images:
        if digest := infos[image.file].content:
            groups[digest].append(image)
    for group in groups.values():
        for other, first in _with_first_apart(group):
            if first is not None:
                same = "the same file" if first.file == other.file else f"the same content as {first.file}"
                yield Finding("leak", str(other.file), "", f"in {_splits(other)}: {same} in {_splits(first)}")
            elif other.file != group[0].file:
                yield Finding("duplicate-image", str(other.file), "", f"the same content as {group[0].file}")


def _with_first_apart(group: Sequence[RawImage]) -> Iterator[tuple[RawImage, RawImage | None]]:
    """Yield each image with the first one before it that is in another split, if any: not all pairs of equal images."""
    first_of: dict[tuple[str, ...], RawImage] = {}
    for image in group:
        yield image, next((other for other in first_of.values() if _apart(other, image)), None)
        first_of.setdefault(image.splits, image)


def _nearly_same(images: Sequence[RawImage], infos: Mapping[Path, ImageInfo], near: int) -> Iterator[Finding]:
    known = [image for image in images if infos[image.file].grey is not None and image.splits]
    hashes = [infos[image.file].grey or b"" for image in known]
    pairs = _near_pairs(known, hashes, near) if near else _equal_pairs(known, hashes)
    for first, second, bits in pairs:
        if _apart(first, second) and infos[first.file].content != infos[second.file].content:
            message = f"in {_splits(second)}: nearly the same as {first.file} in {_splits(first)} ({bits} of 64 bits)"
            yield Finding("near-leak", str(second.file), "", message)


def _equal_pairs(images: Sequence[RawImage], hashes: Sequence[bytes]) -> Iterator[tuple[RawImage, RawImage, int]]:
    groups: dict[bytes, list[RawImage]] = defaultdict(list)
    for image, value in zip(images, hashes, strict=True):
        groups[value].append(image)
    for group in groups.values():
        yield from ((first, image, 0) for image, first in _with_first_apart(group) if first is not None)


def _near_pairs(
    images: Sequence[RawImage], hashes: Sequence[bytes], near: int
) -> Iterator[tuple[RawImage, RawImage, int]]:
    """Yield (one, other, bits that differ) for all pairs that differ in at most ``near`` bits."""
    if not images:
        return
    words = np.frombuffer(b"".join(hashes), np.uint64)
    for start in range(0, len(words), _ROWS):
        rows, rest = words[start : start + _ROWS], words[start:]
        apart = np.bitwise_count(rows[:, None] ^ rest[None, :])
        for one, other in np.argwhere(apart <= near):
            if other > one:
                yield images[start + int(one)], images[start + int(other)], int(apart[one, other])


def _apart(one: RawImage, other: RawImage) -> bool:
    return bool(one.splits and other.splits and set(one.splits) != set(other.splits))


def _splits(image: RawImage) -> str:
    return " and ".join(image.splits)
