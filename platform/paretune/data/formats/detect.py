"""Recognising the format of the dataset that lies in a folder by its layout."""

from __future__ import annotations

from pathlib import Path

from paretune.core.errors import UserError, did_you_mean
from paretune.data import DATASETS, FORMATS
from paretune.data.scanned_dataset import ScannedDataset


def format_of_folder(folder: Path, name: str | None = None) -> str:
    """Return the format of the dataset that lies in a folder: a row of ``DATASETS``.

    Args:
        folder: its root.
        name: of its format; None recognises it by the layout.

    Raises:
        UserError: no such folder, no known layout, or no such format.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or job file")
    names = [*(name for name, form in FORMATS.items() if form.reader), *(DATASETS.rows.keys() - FORMATS.keys())]
    classes = {name: row for name in names if issubclass(row := DATASETS.load(name), ScannedDataset)}
    if name is not None:
        name = name if name in classes else name.replace("-", "_")
        if name not in classes:
            known = ", ".join(classes)
            raise UserError(f"--from {name}: no such format{did_you_mean(name, classes)}; known: {known}")
        return name
    for known, row in classes.items():
        if row.recognises(folder):
            return known
    expected = "; ".join(f"{row.layout} ({name})" for name, row in classes.items())
    raise UserError(f"{folder}: no layout of a known format in it; expected {expected}")
