"""Functions that look at artefacts: accuracy, costs, detections. `predict` runs where only an artefact's runtime is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from paretune.api.inputs import DataSource, Tell, images_named, missing_as_user_error, target_of, told
from paretune.core.errors import UserError, one_line
from paretune.core.types import SURE

if TYPE_CHECKING:
    from paretune.evaluation.report import EvaluationReport
    from paretune.reports.profile_report import Profile
    from paretune.workflows.predict import FilePrediction


@missing_as_user_error
def evaluate(  # noqa: PLR0913 - the options of the command
    artefact: str | PathLike[str] | None = None,
    data: DataSource | None = None,
    *,
    format: str | None = None,  # noqa: A002 - of the data
    split: str = "val",
    annotations: str | PathLike[str] | None = None,
    detections: str | PathLike[str] | None = None,
    against: str | PathLike[str] | None = None,
    confidence: float | None = None,
    iou: float | None = None,
    limit: int | None = None,
    max_detections: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    out: str | PathLike[str] | None = None,
    images_done: Callable[[int, int], None] = lambda *_: None,
    tell: Tell | None = None,
) -> EvaluationReport:
    """Compute COCO's and VOC's metrics of an artefact, or of results in COCO's format.

    Args:
        artefact: folder of the artefact; or
        data: images to evaluate on; None takes those of the sweep or training around the artefact.
        format: of a folder of images; None recognises it by its layout.
        split: train, val or test.
        annotations: file of a ground truth in COCO's format, with
        detections: the file of what was found, in place of an artefact.
        against: another artefact, or other results, for a comparison with its interval.
        confidence: for precision, recall, F1 and confusions; None takes that of the best F1.
        iou: another IoU to evaluate at.
        limit: number of images, the first ones; None takes all.
        max_detections: most detections of a class in an image that count.
        device: that the artefact runs on; None takes that of the sweep or training around, or the CPU.
        threads: of the artefact on a CPU.
        out: folder for curves, confusions and worst images as pictures.
        images_done: called after each image with (images done, images in all).
        tell: called with a line if the target is taken from the sweep or training around.

    Returns:
        The report; ``report.tree()`` is what ``paretune evaluate --json`` prints.

    Raises:
        UserError: no artefact, no images, or an argument out of range.

    Example:
        >>> paretune.evaluate("runs/first/trials/0004/artefact", split="test").accuracy.metrics()["map"]
    """
    files = [annotations, detections]
    if any(files) and not all(files):
        raise UserError("--annotations and --detections go together: a ground truth and what was found")
    if bool(artefact) == bool(annotations):
        raise UserError("evaluate: name an ARTEFACT, or --annotations and --detections")
    if data and not artefact:
        raise UserError("--data: the images of an ARTEFACT; results files bring their own ground truth")
    check_confidence(confidence)
    if iou is not None and not 0 < iou <= 1:
        raise UserError(f"--iou {iou:g}: expected more than 0, at most 1")
    for flag, number in (("--limit", limit), ("--max-detections", max_detections)):
        if number is not None and number < 1:
            raise UserError(f"{flag} {number}: expected at least 1")
    other = _path(against)
    folders = [] if artefact is None else [Path(artefact), *([other] if other else [])]  # else they are files
    target = target_of(folders, device, threads, told(progress=False, tell=tell))
    from paretune.workflows.evaluate import EvaluationOptions, evaluate_artefact, evaluate_files

    wanted = EvaluationOptions(confidence, split, limit, _path(out), other, iou, max_detections)
    if annotations and detections:
        return evaluate_files(Path(annotations), Path(detections), wanted)
    return evaluate_artefact(folders[0], images_named(data, format), target, wanted, images_done)


@missing_as_user_error
def profile(  # noqa: PLR0913 - the options of the command
    *artefacts: str | PathLike[str],
    data: DataSource | None = None,
    format: str | None = None,  # noqa: A002 - of the data
    split: str = "val",
    repetitions: int = 5,
    patience: float = 30.0,
    operators: bool = True,
    streams: Sequence[int] = (),
    batch: Sequence[int] = (),
    nsight: bool = False,
    device: str | None = None,
    threads: int | None = None,
    progress: bool = False,
    tell: Tell | None = None,
) -> Profile:
    """Measure latency, memory and energy of artefacts, the cost of each layer, and which artefact is faster.

    Args:
        artefacts: folders; the first is what the others are compared with.
        data: images to measure on; None takes those of the sweep or training around the first artefact.
        format: of a folder of images; None recognises it by its layout.
        split: train, val or test.
        repetitions: fresh processes of each artefact, and rounds of the comparison.
        patience: seconds of further sampling while guests of the same host use its memory.
        operators: whether to time each layer.
        streams: numbers of processes at the same time, for measurements of throughput.
        batch: numbers of images of an inference, for the same.
        nsight: whether to look at the kernels with Nsight Compute (``device="cuda"``).
        device: that the artefacts run on; None takes that of the sweep or training around, or the CPU.
        threads: of an artefact on a CPU.
        progress: whether to print a line before each measurement.
        tell: function that gets these lines instead.

    Returns:
        The profile: ``failures`` lists what could not be measured, ``tree()`` is what `paretune profile --json` prints.

    Raises:
        UserError: no artefact, no images, an argument out of range, or nothing could be measured.

    Example:
        >>> profile = paretune.profile("runs/first/trials/0000/artefact", "runs/first/trials/0004/artefact")
        >>> profile.comparison
    """
    if not artefacts:
        raise UserError("profile: name an ARTEFACT")
    if not 1 <= repetitions <= 100:
        raise UserError(f"--repetitions {repetitions}: expected 1 to 100")
    if not 0 <= patience <= 3600:
        raise UserError(f"--patience {patience:g}: expected 0 to 3600 seconds")
    for name, numbers in (("streams", streams), ("batch", batch)):
        if (least := min(numbers, default=1)) < 1:
            raise UserError(f"--{name} {least}: expected 1 or more")
    folders, lines = [Path(artefact) for artefact in artefacts], told(progress, tell)
    target = target_of(folders, device, threads, lines)
    from paretune.workflows.profile import ProfileOptions, profile_artefacts

    loads = tuple(product(streams or [1], batch or [1])) if streams or batch else ()
    wanted = ProfileOptions(split, repetitions, operators, loads, nsight, patience)
    try:
        return profile_artefacts(folders, images_named(data, format), target, wanted, lines)
    except RuntimeError as error:
        raise UserError(f"profile: {one_line(error)}") from error


@missing_as_user_error
def predict(
    artefact: str | PathLike[str],
    images: str | PathLike[str] | Sequence[str | PathLike[str]],
    *,
    confidence: float = SURE,
    max_detections: int | None = None,
    out: str | PathLike[str] | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> list[FilePrediction]:
    """Find objects in image files.

    Args:
        artefact: folder of the artefact, or a bundle of `Front.pick`.
        images: a file, or several.
        confidence: smallest score that counts.
        max_detections: most boxes kept in an image; None keeps as many as the artefact says.
        out: folder for the images with boxes drawn; None draws none.
        device: that the artefact runs on; None takes that of the sweep or training around, or the CPU.
        threads: of the artefact on a CPU.

    Returns:
        The detections in each file, or its ``failure`` where it could not be read; boxes are x1 y1 x2 y2 in pixels.

    Raises:
        UserError: no artefact, a damaged one, or an argument out of range.

    Example:
        >>> (found,) = paretune.predict("chosen", "photo.jpg", out="seen")
        >>> found.detections.boxes
    """
    files = [images] if isinstance(images, (str, PathLike)) else images
    return list(
        predictions(
            artefact,
            files,
            confidence=confidence,
            max_detections=max_detections,
            out=out,
            device=device,
            threads=threads,
        )
    )


def predictions(
    artefact: str | PathLike[str],
    images: Sequence[str | PathLike[str]],
    *,
    confidence: float,
    max_detections: int | None,
    out: str | PathLike[str] | None,
    device: str | None,
    threads: int | None,
    tell: Tell = lambda _: None,
) -> Iterator[FilePrediction]:
    """Return the detections in each image file one after another; the arguments and errors are those of `predict`."""
    check_confidence(confidence)
    if max_detections is not None and max_detections < 1:
        raise UserError(f"--max-detections {max_detections}: expected at least 1")
    target = target_of([Path(artefact)], device, threads, tell)
    from paretune.workflows.predict import predict

    return predict(Path(artefact), [Path(image) for image in images], target, confidence, _path(out), max_detections)


def check_confidence(confidence: float | None, flag: str = "--confidence") -> None:
    """Check a confidence; None is valid.

    Raises:
        UserError: the confidence is not from 0 to 1.
    """
    if confidence is not None and not 0 <= confidence <= 1:
        raise UserError(f"{flag} {confidence}: expected 0 to 1")


def _path(place: str | PathLike[str] | None) -> Path | None:
    return None if place is None else Path(place)
