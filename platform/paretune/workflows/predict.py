"""Detections of an artefact in image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import Detections
from paretune.data.image_io import read_image
from paretune.evaluation.draw_detections import draw_found
from paretune.runtimes.predictor import Predictor, load_predictor
from paretune.storage.artefact import read_artefact
from paretune.system.device_lock import shared_device

FEW = 16
"""Images that wait no longer than `PATIENCE` for the device, because they disturb a measurement only briefly."""
PATIENCE = 5.0
"""Most seconds that few images wait for the device."""


@dataclass(frozen=True)
class FilePrediction:
    """Detections in one file, or why it could not be read."""

    file: Path
    detections: Detections | None
    """Detections above the confidence, best first; None if the file could not be read."""
    classes: tuple[str, ...]
    failure: str | None = None
    picture: Path | None = None
    """File of the image with boxes drawn; None if none was drawn."""
    full: int | None = None
    """Limit of boxes in an image if it was reached, so that there may be more objects."""

    def tree(self) -> dict[str, Any]:
        """Return the prediction as plain data; boxes are x1 y1 x2 y2 in pixels of the image."""
        if self.detections is None:
            return {"image": str(self.file), "error": self.failure}
        found = self.detections
        entries = [
            {"class": self.classes[label], "score": round(float(score), 5), "box": [round(float(v), 2) for v in box]}
            for box, score, label in zip(found.boxes, found.scores, found.labels, strict=True)
        ]
        picture = {} if self.picture is None else {"picture": str(self.picture)}
        full = {} if self.full is None else {"limit": self.full}
        return {"image": str(self.file), "detections": entries, **picture, **full}

    def __str__(self) -> str:
        """Return one line with the number of each class, the most frequent first."""
        labels = [] if self.detections is None else self.detections.labels.tolist()
        counts = sorted(((labels.count(label), label) for label in set(labels)), key=lambda e: (-e[0], e[1]))
        words = ", ".join(f"{count} {self.classes[label]}" for count, label in counts)
        return f"{self.file}: {words or 'nothing'}"


def predict(
    artefact: Path,
    files: Sequence[Path],
    target: Target,
    confidence: float,
    out: Path | None = None,
    most: int | None = None,
) -> Iterator[FilePrediction]:
    """Yield the predictions of an artefact for image files; a file that cannot be read does not stop the others.

    It waits for measurements on the device, between images too; for up to `FEW` images at most `PATIENCE` seconds.

    Args:
        artefact: folder of the artefact.
        files: the images.
        target: device and threads to run on.
        confidence: smallest score that counts.
        out: folder for the images with boxes drawn; None draws none.
        most: boxes kept in an image; None keeps as many as the artefact says.

    Raises:
        UserError: no artefact, a damaged one, or the pictures cannot be written.
    """
    pictures = _pictures(files, out)
    read_artefact(artefact, files=False)  # refused before anything is waited for
    patience = PATIENCE if len(files) <= FEW else None
    with shared_device(target.device, patience=patience) as waited:
        predictor = load_predictor(artefact, target)
    if most is not None:
        own = predictor.artefact
        predictor = replace(predictor, artefact=replace(own, thresholds=own.thresholds.keeping(most)))
    for file, picture in zip(files, pictures, strict=True):
        patience = None if patience is None else max(0.0, patience - waited)
        with shared_device(target.device, patience=patience) as waited:
            found = _predicted(predictor, file, confidence, picture)
        yield found


def _predicted(predictor: Predictor, file: Path, confidence: float, picture: Path | None) -> FilePrediction:
    classes = predictor.artefact.classes
    try:
        image = read_image(file)
    except UserError as error:
        return FilePrediction(file, None, classes, str(error))
    every = predictor(image)
    sure = every.scores >= confidence
    found = Detections(every.boxes[sure], every.scores[sure], every.labels[sure])
    if picture is not None:
        draw_found(image, found, classes, picture)
    most = predictor.most_boxes
    full = most if len(found.scores) >= most else None  # of those that count: unsure ones are cut off in any case
    return FilePrediction(file, found, classes, picture=picture, full=full)


def _pictures(files: Sequence[Path], out: Path | None) -> list[Path | None]:
    """Return the path of a picture for every file, with the suffix png; equal names are numbered.

    Raises:
        UserError: a picture would replace one of the images.
    """
    if out is None:
        return [None] * len(files)
    taken: set[Path] = set()
    places: list[Path | None] = []
    images = {file.resolve() for file in files}
    for file in files:
        place, number = out / f"{file.stem}.png", 1
        while place in taken:
            number += 1
            place = out / f"{file.stem}_{number}.png"
        if place.resolve() in images:
            raise UserError(f"--out {out}: {place} is one of the images, and would be replaced; name another folder")
        taken.add(place)
        places.append(place)
    return places
