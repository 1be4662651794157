"""Annotations of images by a deployed detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import Annotations, Data
from paretune.data.image_io import SUFFIXES, image_size, read_image
from paretune.data.image_split import ImageFileSplit, unique_ids
from paretune.runtimes.predictor import device_of, load_predictor
from paretune.storage.artefact import MANIFEST
from paretune.storage.atomic_files import sha256
from paretune.system.device_lock import shared_device


def annotate(
    folder: Path, artefact: Path, score: float, progress: Callable[[int, int], None] = lambda *_: None
) -> Data:
    """Return a dataset of a folder's images whose annotations are an artefact's detections.

    Args:
        folder: of images; subfolders are ignored.
        artefact: folder of the artefact.
        score: smallest score that counts.
        progress: called after each image with (images done, images in all).

    Returns:
        A dataset of one split, ``train``.

    Raises:
        UserError: no images, or a damaged artefact.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not files:
        raise UserError(f"{folder}: no such folder, or no images in it ({', '.join(sorted(SUFFIXES))})")
    target, truth, full = Target(device=device_of(artefact)), [], 0
    with shared_device(target.device):
        predictor = load_predictor(artefact, target)
    for index, file in enumerate(files):
        with shared_device(target.device):  # one at a time: who wants to measure need not wait for all of them
            found = predictor(read_image(file))
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        kept = (found.scores >= score) & (sides > 0).all(axis=1)
        full += int((found.scores >= score).sum()) >= predictor.most_boxes
        truth.append(Annotations(found.boxes[kept], found.labels[kept], np.zeros(int(kept.sum()), bool)))
        progress(index + 1, len(files))
    classes = predictor.artefact.classes
    sizes = tuple(image_size(file) for file in files)
    split = ImageFileSplit(classes, tuple(unique_ids(files, folder).values()), tuple(files), sizes, tuple(truth))
    told = f"the limit of {predictor.most_boxes} boxes in an image binds in {full} of {len(files)} images"
    notes = (f"{told}: there may be more objects",) if full else ()
    return Data(classes, {"train": split}, sha256(artefact / MANIFEST), notes)
