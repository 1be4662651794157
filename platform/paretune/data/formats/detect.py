"""From a folder to what is in it: the format is told by the layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from paretune.core.errors import UserError, did_you_mean
from paretune.data import scanned_dataset as surveyed
from paretune.data.formats import coco_scan as coco
from paretune.data.formats import labelme_scan as labelme
from paretune.data.formats import labelstudio_scan as labelstudio
from paretune.data.formats import supervisely_scan as supervisely
from paretune.data.formats import via_scan as via
from paretune.data.formats import voc_scan as voc
from paretune.data.formats import yolo_layouts as yolofolder
from paretune.data.formats import yolo_scan as yolo
from paretune.data.formats.voc import Voc
from paretune.data.raw_annotations import Survey


def _voc(root: Path) -> Survey:
    return surveyed.survey(Voc(root=str(root)))


FORMATS: dict[str, tuple[str, Callable[[Path], bool], Callable[[Path], Survey]]] = {
    "voc": (
        "Annotations/ and JPEGImages/",
        lambda root: (root / "Annotations").is_dir() or len(list(root.glob("VOC20??/Annotations"))) == 1,
        _voc,
    ),
    "supervisely": (supervisely.LAYOUT, supervisely.fits, supervisely.survey_folder),
    "yolo": (yolofolder.LAYOUT, yolofolder.fits, yolo.survey_folder),
    "labelme": (labelme.LAYOUT, labelme.fits, labelme.survey_folder),
    "via": (via.LAYOUT, via.fits, via.survey_folder),
    "labelstudio": (labelstudio.LAYOUT, labelstudio.fits, labelstudio.survey_folder),
    "coco": (
        "annotations/instances_<split>.json",
        lambda root: bool(coco.annotation_files(root)),
        coco.survey_folder,
    ),
    "voc-flat": (
        ".xml files beside the images",
        lambda root: any([*root.glob("*.xml"), *(path for name in voc.FLAT for path in root.glob(f"{name}/*.xml"))]),
        voc.survey_flat,
    ),
}
"""Format → what its layout is, whether a folder has it, how it is read; the first that fits is taken."""


def format_of_folder(folder: Path, name: str | None = None) -> str:
    """Return the format of the dataset that lies in a folder.

    Args:
        folder: its root.
        name: of its format; None tells it by the layout.

    Raises:
        UserError: no such folder, no known layout, or no such format.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder or job file")
    if name is not None and name not in FORMATS:
        raise UserError(f"--from {name}: no such format{did_you_mean(name, FORMATS)}; known: {', '.join(FORMATS)}")
    found = name or next((name for name, (_, fits, _) in FORMATS.items() if fits(folder)), None)
    if found is None:
        expected = "; ".join(f"{layout} ({name})" for name, (layout, _, _) in FORMATS.items())
        raise UserError(f"{folder}: no layout of a known format in it; expected {expected}")
    if found != "voc" and not FORMATS[found][1](folder):
        raise UserError(f"{folder}: not the layout of {found}: {FORMATS[found][0]}")
    return found


def survey_of_folder(folder: Path, name: str | None = None) -> Survey:
    """Read the dataset that lies in a folder leniently; arguments and errors as of ``format_of_folder``."""
    _, _, read = FORMATS[format_of_folder(folder, name)]
    try:
        return read(folder)
    except OSError as error:  # a folder that may not be read
        raise UserError(f"{error.filename or folder}: cannot be read ({error.strerror})") from error
