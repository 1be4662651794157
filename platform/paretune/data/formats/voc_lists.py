"""Lists of ImageSets/Main: which images of a VOC folder are in which split."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

from paretune.core.errors import UserError
from paretune.data.file_io import read_file, text_of
from paretune.data.formats.filenames import NameIndex, slashed
from paretune.data.image_io import SUFFIXES
from paretune.data.raw_annotations import Finding
from paretune.data.splits import share_out

_MOST_BYTES = 100_000_000
_FLAG = re.compile(r"(.*\S)\s+([+-]?\d+)")
FLAGS = {"1": True, "+1": True, "0": True, "-1": False}
"""Flag of a class list → whether the image holds an object of the class; 0: only difficult ones."""


@dataclass(frozen=True)
class SplitLists:
    """Which lists are the splits."""

    files: Mapping[str, Path]
    """Split → its list, whether it is there or not."""
    needed: AbstractSet[str]
    """Splits whose lists must be there; none: all images are shared out."""
    val_share: float
    test_share: float
    remedy: str
    """How images get into a split, with ``{split}`` to be filled in."""


@dataclass(frozen=True)
class SplitListContents:
    """Which images the lists put into which split."""

    places: Mapping[str, Sequence[str]]
    """Image → its splits, in the order of the lists."""
    splits: Sequence[str]
    notes: tuple[str, ...] = ()
    shared: frozenset[str] = frozenset()
    """Splits that were shared out."""
    flagged: frozenset[str] = frozenset()
    """Images that a class list leaves out."""


def read_lists(lists: SplitLists, holds: Mapping[str, Collection[str]], findings: list[Finding]) -> SplitListContents:
    """Read the lists; what is wrong in them becomes a finding.

    Args:
        lists: which ones.
        holds: the annotated images, by their paths below ``Annotations/`` without ending, each with its classes.
        findings: to add to.
    """
    keys = list(holds)
    there = {split: file for split, file in lists.files.items() if file.is_file()}
    known = ", ".join(sorted(path.stem for path in lists.files["train"].parent.glob("*.txt"))) or "none"
    missing = sorted(lists.needed - there.keys())
    for split in missing:
        message = f"no such list; lists there: {known}"
        findings.append(Finding("bad-list", str(lists.files[split]), "", message))
    reader = _Reader(keys, findings)
    lists_read = {split: reader.read(file) for split, file in there.items()} if lists.needed else {}
    for split in [split for split, ids in lists_read.items() if not ids]:
        message = f"the split {split!r} holds no images; {lists.remedy.format(split=split)}"
        findings.append(Finding("missing-split" if split == "test" else "bad-list", str(there[split]), "", message))
        if split == "test":
            del lists_read[split]
    notes: tuple[str, ...] = ()
    shared: dict[str, list[str]] = {}
    if not missing and "val" not in lists_read:
        whole = lists_read.pop("train", keys)
        shared = share_out(whole, lists.val_share, 0.0 if "test" in lists_read else lists.test_share, holds)
        counts = ", ".join(f"{split} {len(ids)}" for split, ids in shared.items())
        where = lists.files["val"].parent
        lacking, what = (lists.files["val"].name, "images of train") if lists.needed else ("lists", "images")
        if not lists.needed and known != "none":
            lacking = f"train.txt or val.txt (but {known})"
        notes = (f"no {lacking} in {where}: {what} were shared out by a hash of their names ({counts})",)
    places: dict[str, list[str]] = defaultdict(list)
    for split, ids in {**shared, **lists_read}.items():
        for key in ids:
            places[key].append(split)
    return SplitListContents(places, [*shared, *lists_read], notes, frozenset(shared), frozenset(reader.flagged))


class _Reader:
    """Reads lists of known images."""

    def __init__(self, keys: Sequence[str], findings: list[Finding]) -> None:
        self._findings = findings
        self._names = NameIndex(keys)
        of_last: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            of_last[key.rpartition("/")[2]].append(key)
        self._of_last = {last: stems[0] for last, stems in of_last.items() if len(stems) == 1}
        self._last = NameIndex(self._of_last)
        self.flagged: set[str] = set()

    def read(self, file: Path) -> list[str]:
        """Return the images of one list."""
        try:
            lines = text_of(read_file(file, _MOST_BYTES)).splitlines()
        except (UserError, UnicodeDecodeError) as error:
            self._findings.append(Finding("bad-list", str(file), "", str(error).removeprefix(f"{file}: ")))
            return []
        ids: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            if not (text := line.strip()):
                continue
            where = f"line {number}"
            key, holds = self._entry(text)
            if key is None:
                message = f"{text!r} has no annotation (expected {f'{text}.xml'!r} in Annotations/"
                message += "; a class list has a flag behind the name: 1, 0 or -1)"
                self._findings.append(Finding("bad-list", str(file), where, message))
            elif not holds:
                self.flagged.add(key)
                message = f"{key}: its flag is -1, it holds no object of the class"
                self._findings.append(Finding("other-class", str(file), where, message))
            elif key in ids:
                message = f"{key!r} is in this list already, on line {ids[key]}"
                self._findings.append(Finding("duplicate-id", str(file), where, message))
            else:
                ids[key] = number
                if not text.startswith(key):
                    self._findings.append(Finding("other-name", str(file), where, f"{text!r} is taken for {key!r}"))
        return list(ids)

    def _entry(self, text: str) -> tuple[str | None, bool]:
        """Return the image that a line names, and whether the class of its list is in it."""
        if (key := self._find(text)) is not None:
            return key, True
        match = _FLAG.fullmatch(text)
        if match is None or match[2] not in FLAGS:
            return None, True
        return self._find(match[1]), FLAGS[match[2]]

    def _find(self, text: str) -> str | None:
        if (key := self._names.find(text)) is not None:
            return key
        path = slashed(text).removeprefix("./")
        stem, dot, ending = path.rpartition(".")
        path = stem if dot and f".{ending.lower()}" in {*SUFFIXES, ".xml"} else path
        if (key := self._names.find(path)) is not None:
            return key
        last = self._last.find(path.rpartition("/")[2])
        return None if last is None else self._of_last[last]
