"""Evaluation of one artefact, or of another program's results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from paretune.core.errors import UserError
from paretune.core.target import Target
from paretune.core.types import LIMIT, Detections, Image, Split
from paretune.data.base import Dataset
from paretune.data.left_out import record_of
from paretune.data.splits import split_of
from paretune.evaluation.accuracy import detect
from paretune.evaluation.coco_results_files import read_results
from paretune.evaluation.map_at_iou import at_iou
from paretune.evaluation.report import EvaluationReport, inference_facts, report_of
from paretune.evaluation.results_explanations import most_kept
from paretune.reports.evaluation_plots import draw_report, draw_worst
from paretune.results.locate import dataset_around
from paretune.runtimes.predictor import Predictor, load_predictor
from paretune.system.device_lock import shared_device


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of an evaluation."""

    confidence: float | None = None
    """Confidence for precision, recall, F1 and confusions; None takes that of the best F1."""
    split: str = "val"
    limit: int | None = None
    """Number of images, the first ones of the split; None takes all."""
    out: Path | None = None
    """Folder for pictures."""
    against: Path | None = None
    """Another artefact, or other results on the same images, for a comparison."""
    iou: float | None = None
    """Additional IoU to evaluate at."""
    max_detections: int | None = None
    """Most detections of a class in an image that count; None takes COCO's 100, or the artefact's limit if higher."""


def evaluate_artefact(
    folder: Path,
    dataset: tuple[Dataset, Path] | None,
    target: Target,
    options: EvaluationOptions,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> EvaluationReport:
    """Evaluate an artefact on a split.

    Args:
        folder: of the artefact.
        dataset: (dataset, its cache); None takes those of the sweep or training around the artefact.
        target: device and threads to run on.
        options: of the evaluation.
        progress: called after each image with (images done, images in all).

    Raises:
        UserError: no artefact, no dataset, no such split, or classes the artefact knows and the dataset lacks.
    """
    folders = [folder] if options.against is None else [folder, options.against]
    with shared_device(target.device):
        predictors = [load_predictor(one, target) for one in folders]
    opened, cache = dataset or dataset_around(folder)
    data = opened.open_for(options.split, cache)
    split = split_of(data, options.split)
    pairs = zip(folders, predictors, strict=True)
    labels = [_labels(place, one.artefact.classes, data.classes) for place, one in pairs]
    with shared_device(target.device):
        (detections, seconds), *others = (
            _detected(predictor, own, split, options.limit, progress)
            for predictor, own in zip(predictors, labels, strict=True)
        )
    annotations = [split.annotations(index) for index in range(len(detections))]
    facts = {
        "artefact": str(folder),
        "split": options.split,
        **inference_facts(seconds),
        "runtime": {key: str(value) for key, value in predictors[0].facts.items()},
        **record_of(data),
        **_against(options),
    }
    before = others[0][0] if others else None
    kept = predictors[0].artefact.thresholds
    limit = kept.limit if options.max_detections is None else options.max_detections
    at = at_iou(detections, annotations, data.classes, options.iou, confidence=options.confidence, limit=limit)
    report = report_of(
        detections,
        annotations,
        data.classes,
        confidence=options.confidence,
        facts=facts,
        before=before,
        at=at,
        limit=limit,
        notes=most_kept(detections, kept.detections, annotations),
    )
    if options.out is not None:
        draw_report(report, options.out)
        draw_worst(report, split.image, annotations, detections, options.out)
    return report


def evaluate_files(truth: Path, found: Path, options: EvaluationOptions) -> EvaluationReport:
    """Evaluate another program's detections; both files are in COCO's format.

    Raises:
        UserError: a file is not in the format.
    """
    limit = LIMIT if options.max_detections is None else options.max_detections
    results = read_results(truth, found, options.iou, limit)
    others = None if options.against is None else read_results(truth, options.against).detections
    count = len(results.images) if options.limit is None else min(options.limit, len(results.images))
    detections, annotations = results.detections[:count], results.annotations[:count]
    whole = count == len(results.images)
    report = report_of(
        detections,
        annotations,
        results.classes,
        confidence=options.confidence,
        averages=results.averages if whole else None,
        facts={"annotations": str(truth), "detections": str(found), **_against(options)},
        before=None if others is None else others[:count],
        at=at_iou(
            detections,
            annotations,
            results.classes,
            options.iou,
            confidence=options.confidence,
            averages=results.averages_at if whole else None,
            limit=limit,
        ),
        limit=limit,
        notes=results.notes,
    )
    if options.out is not None:
        draw_report(report, options.out)  # the images themselves are not told
    return report


def _against(options: EvaluationOptions) -> dict[str, str]:
    return {} if options.against is None else {"against": str(options.against)}


def _detected(
    predictor: Predictor,
    labels: NDArray[np.int64],
    split: Split,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> tuple[list[Detections], list[float]]:
    """Return the detections in the first images of a split, with the dataset's labels, and the seconds of each."""
    seconds = []

    def timed(image: Image) -> Detections:
        start = time.perf_counter()
        found = predictor(image)
        seconds.append(time.perf_counter() - start)
        return Detections(found.boxes, found.scores, labels[found.labels])

    return detect(timed, split, progress, limit), seconds


def _labels(folder: Path, artefact: tuple[str, ...], dataset: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the dataset's label of each class of the artefact."""
    if missing := [name for name in artefact if name not in dataset]:
        known = ", ".join(dataset)
        raise UserError(f"{folder}: finds {', '.join(missing)}, which the dataset has not; its classes are {known}")
    return np.array([dataset.index(name) for name in artefact], np.int64)
