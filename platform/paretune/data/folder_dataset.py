"""The fields and checks that all datasets in a folder share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from pydantic import Field, ValidationInfo, field_validator

from paretune.data.base import Dataset

UNNAMED = "???"
"""Stands for a folder that is still to be named: on the command line, or in the file."""
MOST_PROBLEMS = 20
"""Problems of one kind that are listed one by one, at most."""


class FolderDataset(Dataset):
    """A dataset in a folder of files."""

    layout: ClassVar[str]
    """What lies in a folder of this format, for messages."""

    root: str
    """Its folder; ~ and variables such as $HOME are filled in. ??? leaves it to `--set`."""
    classes: list[str] | None = Field(default=None, min_length=1)
    """Class names in their order; without them, those that the files name, or all that occur, sorted."""
    val_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the images for val where there is no such split; a hash of its name decides for each image."""
    test_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the images for test where there are no splits, or only one to train on."""

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: list[str] | None) -> list[str] | None:
        if classes is not None and len(set(classes)) < len(classes):
            raise ValueError("a class is named twice")
        return classes

    @field_validator("test_share")
    @classmethod
    def _check_shares(cls, share: float, info: ValidationInfo) -> float:
        val = info.data.get("val_share", 0)  # not there when it is wrong itself
        if share + val >= 1:
            raise ValueError(f"val_share + test_share is {val + share:g}: nothing is left for train")
        return share

    def folders(self) -> list[str]:
        """Return the root."""
        return [self.root]

    def unnamed(self) -> str | None:
        """Return the root's field where no folder is named yet."""
        return "root" if self.root == UNNAMED else None

    @property
    def folder(self) -> Path:
        """The root with ~ and variables filled in."""
        folder = Path(os.path.expandvars(self.root))
        try:
            return folder.expanduser()
        except RuntimeError:  # ~name without such a user: told as missing
            return folder

    def missing(self, expected: str) -> str | None:
        """Return why the folder cannot be used (not named, not there), or None."""
        if self.unnamed():
            return f"its folder is not named yet: --set dataset.{self.name}.root=FOLDER (expected {expected})"
        if self.folder.is_dir():
            return None
        text = str(self.folder)
        unset = "; a variable in it is not set" if "$" in text else ""
        relative = not self.folder.is_absolute() and not text.startswith(("$", "~"))
        where = f" in {Path.cwd()}" if relative else ""  # a sweep may have begun elsewhere
        return f"no such folder: {text}{where} (expected {expected}{unset})"

    @classmethod
    def recognises(cls, root: Path) -> bool:  # noqa: ARG003 - a format may have no layout of its own
        """Return whether what lies in a folder is of this format: asked where no format is named."""
        return False

    def problems(self) -> list[str]:
        """Return what is wrong with the folder: not named, not there, or not of this format."""
        if missing := self.missing(f"one that holds {self.layout}"):
            return [missing]
        try:
            return [] if self.recognises(self.folder) else [f"{self.folder}: no {self.layout} in it"]
        except OSError as error:
            return [f"{error.filename or self.folder}: cannot be read ({error.strerror})"]
