"""One artefact, or the results of another program, evaluated by itself."""

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
    """What is asked of an evaluation."""

    confidence: float | None = None
    """For precision, recall, F1 and confusions; None takes that of the best F1."""
    split: str = "val"
    limit: int | None = None
    """Evaluate the first so many images only."""
    out: Path | None = None
    """Folder for pictures."""
    against: Path | None = None
    """Another artefact, or other results, of the same images, that this one is to be compared with."""
    iou: float | None = None
    """Evaluate at this IoU too."""
    max_detections: int | None = None
    """Of a class in an image that count; None takes COCO's 100, and what an artefact finds where that is more."""


def evaluate_artefact(
    folder: Path,
    dataset: tuple[Dataset, Path] | None,
    target: Target,
    wanted: EvaluationOptions,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> EvaluationReport:
    """Run an artefact over a split and compare with its annotations.

    Args:
        folder: of the artefact.
        dataset: to evaluate on, and where it may keep what it generates; None takes that of the sweep or training the
            artefact lies in.
        target: device and threads to run on.
        wanted: confidence, split, number of images, pictures.
        progress: called after each image with the number done and the number of all.

    Raises:
        UserError: no artefact, no dataset, no such split, or classes the artefact knows and the dataset lacks.
    """
    folders = [folder] if wanted.against is None else [folder, wanted.against]
    with shared_device(target.device):
        predictors = [load_predictor(one, target) for one in folders]
    opened, cache = dataset or dataset_around(folder)
    data = opened.open_for(wanted.split, cache)
    split = split_of(data, wanted.split)
    pairs = zip(folders, predictors, strict=True)
    labels = [_labels(place, one.artefact.classes, data.classes) for place, one in pairs]
    with shared_device(target.device):
        (detections, seconds), *others = (
            _detected(predictor, own, split, wanted.limit, progress)
            for predictor, own in zip(predictors, labels, strict=True)
        )
    annotations = [split.annotations(index) for index in range(len(detections))]
    facts = {
        "artefact": str(folder),
        "split": wanted.split,
        **inference_facts(seconds),
        "runtime": {key: str(value) for key, value in predictors[0].facts.items()},
        **record_of(data),
        **_against(wanted),
    }
    before = others[0][0] if others else None
    kept = predictors[0].artefact.thresholds
    limit = kept.limit if wanted.max_detections is None else wanted.max_detections
    at = at_iou(detections, annotations, data.classes, wanted.iou, confidence=wanted.confidence, limit=limit)
    report = report_of(
        detections,
        annotations,
        data.classes,
        confidence=wanted.confidence,
        facts=facts,
        before=before,
        at=at,
        limit=limit,
        notes=most_kept(detections, kept.detections, annotations),
    )
    if wanted.out is not None:
        draw_report(report, wanted.out)
        draw_worst(report, split.image, annotations, detections, wanted.out)
    return report


def evaluate_files(truth: Path, found: Path, wanted: EvaluationOptions) -> EvaluationReport:
    """Evaluate what another program has found: both files in COCO's format.

    Raises:
        UserError: a file is not of the format.
    """
    limit = LIMIT if wanted.max_detections is None else wanted.max_detections
    results = read_results(truth, found, wanted.iou, limit)
    others = None if wanted.against is None else read_results(truth, wanted.against).detections
    count = len(results.images) if wanted.limit is None else min(wanted.limit, len(results.images))
    detections, annotations = results.detections[:count], results.annotations[:count]
    whole = count == len(results.images)
    report = report_of(
        detections,
        annotations,
        results.classes,
        confidence=wanted.confidence,
        averages=results.averages if whole else None,
        facts={"annotations": str(truth), "detections": str(found), **_against(wanted)},
        before=None if others is None else others[:count],
        at=at_iou(
            detections,
            annotations,
            results.classes,
            wanted.iou,
            confidence=wanted.confidence,
            averages=results.averages_at if whole else None,
            limit=limit,
        ),
        limit=limit,
        notes=results.notes,
    )
    if wanted.out is not None:
        draw_report(report, wanted.out)  # the images themselves are not told
    return report


def _against(wanted: EvaluationOptions) -> dict[str, str]:
    return {} if wanted.against is None else {"against": str(wanted.against)}


def _detected(
    predictor: Predictor,
    labels: NDArray[np.int64],
    split: Split,
    limit: int | None,
    progress: Callable[[int, int], None],
) -> tuple[list[Detections], list[float]]:
    """Return what is found in the first images of a split, in the dataset's labels, and the seconds of each."""
    seconds = []

    def timed(image: Image) -> Detections:
        start = time.perf_counter()
        found = predictor(image)
        seconds.append(time.perf_counter() - start)
        return Detections(found.boxes, found.scores, labels[found.labels])

    return detect(timed, split, progress, limit), seconds


def _labels(folder: Path, artefact: tuple[str, ...], dataset: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the dataset's label of each of the artefact's classes."""
    if missing := [name for name in artefact if name not in dataset]:
        known = ", ".join(dataset)
        raise UserError(f"{folder}: finds {', '.join(missing)}, which the dataset has not; its classes are {known}")
    return np.array([dataset.index(name) for name in artefact], np.int64)
