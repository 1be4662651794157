"""Generated pictures: a dataset that is there at once, and hard enough to show what compression costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from paretune.core.spec import fingerprint
from paretune.core.types import Annotations, Data, Image, InputSize, Split
from paretune.data.base import Dataset
from paretune.data.statistics import object_counts
from paretune.storage.atomic_files import new_folder, sha256
from paretune.system.file_lock import locked_file

PAINTER = 2
"""Raised when the painting changes, so that pictures of an older one are not used."""
_DONE = "pictures.json"


class Shapes(Dataset):
    """Six flat shapes among lookalikes and clutter, in uneven light, blurred, noisy and compressed."""

    name: ClassVar[str] = "shapes"

    seed: int = Field(default=0, ge=0)
    """Another seed gives other pictures."""
    train: int = Field(default=600, ge=1, le=100_000)
    """Pictures to train on; also what calibration pictures come from."""
    val: int = Field(default=300, ge=1, le=100_000)
    """Pictures that versions are chosen by; with fewer than 300 the accuracies are noisy."""
    test: int = Field(default=0, ge=0, le=100_000)
    """Pictures that no search looks at."""
    size: str = "192x144"
    """Width x height of the pictures, in pixels; one number for a square."""
    difficulty: float = Field(default=0.3, ge=0, le=1)
    """0: clean pictures; 1: many lookalikes, much clutter, hard light, strong blur and noise."""

    @field_validator("size")
    @classmethod
    def _check_size(cls, text: str) -> str:
        size = InputSize.parse(text)
        if not 32 <= min(size.width, size.height) <= max(size.width, size.height) <= 4096:
            raise ValueError("both sides must be from 32 to 4096 pixels")
        return text

    def problems(self) -> list[str]:
        """Return nothing: there are no files that could be wrong."""
        return []

    def open(self, cache: Path) -> Data:
        """Open the pictures; they are painted when they are not in ``cache`` yet."""
        from paretune.data.synthetic.scene import CLASSES

        folder = cache / f"shapes-{fingerprint(PAINTER, self.tree())}"
        with _alone(folder):
            if not (folder / _DONE).is_file():
                with new_folder(folder, replace=True) as draft:
                    self._paint(draft)
        splits: dict[str, Split] = {
            name: _Pictures.read(folder, name, CLASSES) for name, count in self._counts() if count
        }
        return Data(
            classes=CLASSES,
            splits=splits,
            fingerprint=fingerprint(json.loads((folder / _DONE).read_text())),
            facts=object_counts(splits),
        )

    def _counts(self) -> list[tuple[str, int]]:
        return [("train", self.train), ("val", self.val), ("test", self.test)]

    def _paint(self, draft: Path) -> None:
        """Paint every split into a folder; the file with the hashes comes last and marks a complete folder."""
        from paretune.data.synthetic.scene import paint

        size = InputSize.parse(self.size)
        for number, (name, count) in enumerate(self._counts()):
            if not count:
                continue
            shape = (count, size.height, size.width, 3)
            pictures = np.lib.format.open_memmap(draft / f"{name}.npy", "w+", np.uint8, shape)
            truth = []
            for index in range(count):
                # a picture depends on its own number only: a longer split begins with the shorter one
                random = np.random.default_rng([self.seed, number, index])
                pictures[index], annotations = paint(random, size, self.difficulty)
                truth.append(annotations)
            pictures.flush()
            _save(draft / f"{name}.npz", truth)
        hashes = {path.name: sha256(path) for path in sorted(draft.iterdir())}
        (draft / _DONE).write_text(json.dumps(hashes, indent=1))


@dataclass(frozen=True)
class _Pictures(Split):
    """One painted split; the pictures stay on the disk."""

    classes: tuple[str, ...]
    ids: Sequence[str]
    pictures: Path
    shape: tuple[int, int]
    """Width and height of every picture."""
    truth: tuple[Annotations, ...]

    @classmethod
    def read(cls, folder: Path, name: str, classes: tuple[str, ...]) -> _Pictures:
        """Open one split of a painted folder."""
        file = folder / f"{name}.npy"
        count, height, width, _ = np.load(file, mmap_mode="r").shape
        ids = tuple(f"{name}-{index:05d}" for index in range(count))
        return cls(classes, ids, file, (width, height), _load(folder / f"{name}.npz"))

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Image:
        """Read one picture; the file is opened each time, so that a split can be sent to another process."""
        return np.array(np.load(self.pictures, mmap_mode="r")[index])

    def size(self, index: int) -> tuple[int, int]:  # noqa: ARG002 - all are alike
        """Return (width, height)."""
        return self.shape

    def annotations(self, index: int) -> Annotations:
        """Return the ground truth of one picture."""
        return self.truth[index]

    def file(self, index: int) -> None:
        """Return None: the pictures lie in one array."""


def _save(file: Path, truth: Sequence[Annotations]) -> None:
    """Write the annotations of all pictures joined; ``ends`` holds where those of each picture stop."""
    np.savez(
        file,
        boxes=np.concatenate([a.boxes for a in truth]),
        labels=np.concatenate([a.labels for a in truth]),
        ignore=np.concatenate([a.ignore for a in truth]),
        ends=np.cumsum([len(a.labels) for a in truth]),
    )


def _load(file: Path) -> tuple[Annotations, ...]:
    with np.load(file) as joined:
        cuts = joined["ends"][:-1]
        parts = [np.split(joined[name], cuts) for name in ("boxes", "labels", "ignore")]
    return tuple(Annotations(*part) for part in zip(*parts, strict=True))


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Return a block that one process at a time may run for a folder that is made; others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return locked_file(folder.with_name(f".{folder.name}.lock"), taken=None, gone=f"{folder.parent} was removed")
