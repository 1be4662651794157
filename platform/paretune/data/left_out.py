"""What of a dataset is not used: one line for every verb, and an error before training where it is too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paretune.core.errors import UserError
from paretune.core.hints import command
from paretune.core.types import Data, LeftOut
from paretune.data.base import Dataset
from paretune.data.raw_annotations import KINDS, LEFT_OUT, READ_ALL_THE_SAME, printable

MOST_GONE = 0.2
"""Share of a split's boxes, or of its images, that may be left out before a training stops."""


@dataclass
class SplitTally:
    """What is written of one split, and what of it is not used."""

    images: int = 0
    images_gone: int = 0
    boxes: int = 0
    boxes_gone: int = 0


class LeftOutCounter:
    """Counts what is left out, and what is read otherwise than it is written; keeps the first place of each."""

    def __init__(self) -> None:
        self._left: dict[tuple[str, str], tuple[int, str]] = {}
        self._read: dict[str, tuple[int, str]] = {}

    def leave(self, what: str, kind: str, first: str) -> None:
        """Count one thing that is left out.

        Args:
            what: ``boxes``, ``images`` or ``entries``.
            kind: a key of ``LEFT_OUT``.
            first: its file, and the place in it.
        """
        count, place = self._left.get((what, kind), (0, first))
        self._left[what, kind] = count + 1, place

    def read(self, kind: str, first: str) -> None:
        """Count one thing that is read otherwise; ``kind`` is a key of ``READ_ALL_THE_SAME``."""
        count, place = self._read.get(kind, (0, first))
        self._read[kind] = count + 1, place

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Return what is left out, boxes first."""
        return tuple(
            LeftOut(what, count, LEFT_OUT.get(kind) or KINDS[kind][1], printable(first))
            for (what, kind), (count, first) in sorted(self._left.items())
        )

    @property
    def notes(self) -> list[str]:
        """Return a sentence for each kind of thing that is read otherwise."""
        return [
            printable(f"{count} {READ_ALL_THE_SAME[kind]}; the first: {first}")
            for kind, (count, first) in self._read.items()
        ]


def left_out_line(left_out: Sequence[LeftOut]) -> str:
    """Return the line on what is not used; empty where everything is."""
    parts = []
    for what in dict.fromkeys(entry.what for entry in left_out):
        entries = [entry for entry in left_out if entry.what == what]
        counted = len(entries) > 1
        more = "; ".join(f"{f'{e.count} ' if counted else ''}{e.why}, the first {e.first}" for e in entries)
        parts.append(f"{sum(entry.count for entry in entries)} {what} ({more})")
    return f"left out: {', '.join(parts)}" if parts else ""


def lines_of(data: Data) -> list[str]:
    """Return the notes on how a dataset was read, and the line on what is left out."""
    return [*data.notes, *filter(None, [left_out_line(data.left_out)])]


def record_of(data: Data) -> dict[str, Any]:
    """Return ``notes`` and ``left_out`` as plain data, for records."""
    return {"notes": list(data.notes), "left_out": [asdict(entry) for entry in data.left_out]}


def lines_of_record(record: Mapping[str, Any]) -> list[str]:
    """Return the lines of ``lines_of`` for the dataset of a record."""
    left_out = [LeftOut(**entry) for entry in record.get("left_out", ())]
    return [*record.get("notes", ()), *filter(None, [left_out_line(left_out)])]


def gaps_of(tallies: Mapping[str, SplitTally], objects: Mapping[str, Mapping[str, int]]) -> tuple[str, ...]:
    """Return the reasons, a sentence each, why a dataset is trained on only if its user allows it.

    Args:
        tallies: of each split.
        objects: split → class → boxes that can be trained on.
    """
    gaps = []
    for split, tally in tallies.items():
        for what, gone, of in (
            ("boxes", tally.boxes_gone, tally.boxes),
            ("images", tally.images_gone, tally.images),
        ):
            if gone > MOST_GONE * of:
                gaps.append(f"{gone} of {of} {what} of the split {split} are left out, more than {MOST_GONE:.0%}")
        if tally.images and not sum(objects[split].values()):
            gaps.append(f"the split {split} holds no object")
    train = objects.get("train", {})
    if sum(train.values()) and (lacking := [name for name, count in train.items() if not count]):
        gaps.append(f"train holds no object of {', '.join(map(repr, lacking))}")
    return tuple(gaps)


def refuse_gaps(data: Data, dataset: Dataset) -> None:
    """Raise an error for a dataset that lacks a large part of itself, unless its field ``allow_missing`` is set.

    Raises:
        UserError: what is lacking, what was left out, and how to go on.
    """
    if not data.gaps or getattr(dataset, "allow_missing", True):
        return
    where = getattr(dataset, "place", dataset.name)
    check = command("data", "check", where, "--from", dataset.name)
    away = f"`{check}` tells every defect; to train all the same: --set dataset.{dataset.name}.allow_missing=true"
    raise UserError("\n".join([*(f"{where}: {gap}" for gap in data.gaps), *lines_of(data), away]))
