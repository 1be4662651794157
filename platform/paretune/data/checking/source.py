"""From a folder to its dataset: the format is told by the layout."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from paretune.data import DATASETS
from paretune.data.base import Dataset
from paretune.errors import UserError


def dataset_of_folder(folder: Path, name: str | None = None) -> Dataset:
    """Return the dataset that lies in a folder.

    Args:
        folder: its root.
        name: of its format; None tells it by the layout.

    Raises:
        UserError: no such folder, no known layout, no such format, or one without a root.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or job file")
    found = DATASETS.load(name or layout_of(folder))
    try:
        return found.model_validate({"root": str(folder)})
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise UserError(
            f"{folder}: format {name!r} cannot be read from a folder alone ({fields}); give a job"
        ) from error


def layout_of(folder: Path) -> str:
    """Return the name of the format that a folder's layout shows.

    Raises:
        UserError: none of those known.
    """
    if all((folder / part).is_dir() for part in ("Annotations", "JPEGImages")):
        return "voc"
    expected = "Annotations/ and JPEGImages/ (voc)"
    raise UserError(f"{folder}: no layout of a known format in it; expected {expected}, or say --from FORMAT")
