"""Advice for an artefact: its bottlenecks, predicted gains of changes, and their measured gains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from paretune.core.errors import UserError, one_line
from paretune.core.target import Target
from paretune.core.types import Image
from paretune.core.yaml_document import Document
from paretune.data.left_out import lines_of
from paretune.data.splits import split_of
from paretune.profiling.latency.compare import LatencyRatio, compare
from paretune.profiling.latency.measure import measure
from paretune.profiling.latency.result import STAGES
from paretune.profiling.latency.samples import MeasurementProtocol, Stage, milliseconds
from paretune.profiling.latency.shared_images import measuring_images, saved_images
from paretune.profiling.operators import OperatorTimes, count
from paretune.profiling.roofline.advice import Advice, AdvisedArtefact, advise
from paretune.profiling.roofline.diagnosis import Diagnosis, diagnose
from paretune.profiling.roofline.hardware_peaks import HardwarePeaks, measure_roofs
from paretune.profiling.roofline.layer_work import LayerWork, work_of
from paretune.results.advice_outcomes import FILE
from paretune.runtimes.predictor import check_loadable, load_predictor
from paretune.storage.artefact import Artefact
from paretune.storage.atomic_files import new_folder, write_text
from paretune.system.device_lock import shared_device
from paretune.workflows.accuracy_change import AccuracyChange, Find, Reference, SplitChange, map_change, map_words
from paretune.workflows.optimize import OptimizationOptions, optimize
from paretune.workflows.recipe_source import RecipeImages, RecipeSource, read_recipe

Progress = Callable[[str], None]
PAGE = "advice.html"
TRIED = "tried"
"""Folder of the artefacts that were built from advice, beside its page."""
KNOWN = 0.5
"""Least share of the counted time with a known module, host or transfer for a verdict on the network."""
UNPLACED = "which layer it belongs to; advise the same network built for eager, onnxruntime or openvino instead"


@dataclass(frozen=True)
class TriedAdvice:
    """Result of one piece of advice that was tried."""

    advice: Advice
    measured: LatencyRatio | None
    """Latency over that of the artefact the advice was for, measured interleaved; None if it is unknown."""
    reason: str | None = None
    """Why it was not built or not measured."""
    artefact: Path | None = None
    """Folder of the built artefact; None if it is not kept."""
    accuracy: AccuracyChange | None = None
    """Accuracy beside that of the artefact the advice was for; None if nothing was built."""

    @property
    def change(self) -> SplitChange | str:
        """Return the change of accuracy, or why it is unknown."""
        return (self.reason or "nothing was built") if self.accuracy is None else self.accuracy.decisive

    @property
    def speedup(self) -> float | None:
        """Return the speed-up from image to boxes; None if it is unknown."""
        return None if self.measured is None else 1 / self.measured.ratio

    @property
    def kept(self) -> float | None:
        """Return the measured share of the predicted gain; None if it is unknown."""
        return None if self.speedup is None else (self.speedup - 1) / (self.advice.predicted - 1)

    def tree(self) -> dict[str, Any]:
        """Return it as plain data."""
        measured = None if self.measured is None else {**vars(self.measured), "verdict": self.measured.verdict}
        return {
            "knob": self.advice.knob,
            "predicted": self.advice.predicted,
            "speedup": self.speedup,
            "ratio": measured,
            "kept": self.kept,
            **map_change(self.change),
            "reason": self.reason,
            "artefact": None if self.artefact is None else str(self.artefact),
        }


@dataclass(frozen=True)
class AdviceReport:
    """Diagnosis of an artefact and advice for it."""

    artefact: Artefact
    diagnosis: Diagnosis
    advice: tuple[Advice, ...]
    notes: tuple[str, ...]
    """Notes of the measurements."""
    tried: tuple[TriedAdvice, ...] = ()

    @property
    def measured(self) -> dict[str, LatencyRatio | str]:
        """Return knob → ratio of latencies, or why it is unknown, for the advice that was tried."""
        return {one.advice.knob: one.measured or one.reason or "" for one in self.tried}

    @property
    def changes(self) -> dict[str, str]:
        """Return knob → change of accuracy in words, for the advice that was tried."""
        return {one.advice.knob: map_words(one.change) for one in self.tried}

    def tree(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "artefact": str(self.artefact.folder),
            "recipe": self.artefact.recipe,
            **self.diagnosis.tree(),
            "advice": [one.tree() for one in self.advice],
            "notes": list(self.notes),
            "tried": [one.tree() for one in self.tried],
        }


def advise_artefact(
    folder: Path, images: RecipeImages, target: Target, *, split: str = "val", progress: Progress = lambda _: None
) -> AdviceReport:
    """Measure an artefact, its operators and the device's peaks, and return a diagnosis with advice.

    Args:
        folder: of the artefact.
        images: whose images are used.
        target: device and threads.
        split: of the images.
        progress: called with a line before each measurement.

    Raises:
        UserError: no artefact, one that this machine or target cannot run, no such split, or a runtime without times
            of operators.
        RuntimeError: a measuring process died or hung.
    """
    artefact = check_loadable(folder, target)
    shown = _shown(images, split, target, progress)
    with saved_images(shown) as file:
        progress(f"measuring {folder}")
        latency = measure(folder, file, target, MeasurementProtocol(repetitions=3))
        stages = {stage: float(np.median(milliseconds(latency.rows, stage, latency.mode))) for stage in STAGES}
        progress("counting its operators")
        counted = count(folder, file, target, stages["network"], latency.mode)
    if isinstance(counted, str):
        raise UserError(f"{folder}: no advice without its operators: {counted}")
    progress("measuring the roofs of the device")
    roofs = measure_roofs(target)
    with shared_device(target.device):  # what another measures meanwhile is not disturbed
        predictor = load_predictor(folder, target)
        work = work_of(predictor, shown[0], target)
    found = diagnosed(stages, counted, work, roofs, target.device)
    given = advise(found, AdvisedArtefact(artefact.recipe, artefact.input_size, target.device, predictor.detector))
    return AdviceReport(artefact, found, tuple(given), (*latency.notes, *counted.notes))


def diagnosed(
    stages: Mapping[Stage, float],
    counted: OperatorTimes,
    work: Mapping[str, LayerWork],
    roofs: HardwarePeaks,
    device: str,
) -> Diagnosis:
    """Return a diagnosis of an inference's time by its operators.

    Args:
        stages: ``preprocess``, ``network``, ``postprocess`` → undistorted median in ms.
        counted: times of the network's operators.
        work: module → its work.
        roofs: peaks of the device.
        device: of the target.

    Returns:
        The diagnosis, without bounds but with a reason if less than half of the counted time has a known module.
    """
    times, host, transfer = counted.places(device)
    known = (sum(times.values()) + host + transfer) / counted.network_ms
    unknown = None if known >= KNOWN else f"the runtime tells of {known:.0%} of its time only {UNPLACED}"
    return diagnose(stages, times, work, roofs, host_ms=host, transfer_ms=transfer, unknown=unknown)


def try_advice(
    found: AdviceReport,
    network: RecipeSource,
    images: RecipeImages,
    target: Target,
    *,
    most: int,
    split: str = "val",
    out: Path | None = None,
    progress: Progress = lambda _: None,
) -> AdviceReport:
    """Build the first pieces of advice, and measure each interleaved with the artefact.

    An error in one of them becomes its reason, and the others are tried.

    Args:
        found: report with the advice.
        network: trained network that the recipes start from.
        images: to train, calibrate and measure with.
        target: device and threads.
        most: largest number of pieces.
        split: of the images that the artefact was measured on.
        out: folder of the advice, in which the built artefacts are kept; None keeps none.
        progress: called with a line for each step.

    Raises:
        UserError: the split has no images.
    """
    tried = []
    with (
        saved_images(_shown(images, split, target, lambda _: None)) as file,
        TemporaryDirectory(prefix="advice-") as own,
        TemporaryDirectory(prefix="advice-") if out is None else nullcontext(out / TRIED) as place,
    ):
        before = Reference(lambda: _before(found.artefact, network, target), Path(own), found.artefact.thresholds.limit)
        for number, advice in enumerate(found.advice[:most], start=1):
            progress(f"trying {advice.knob}")
            folder = Path(place) / _name(number, advice)
            try:
                recipe = read_recipe(Document(f"advice {advice.knob}", dict(advice.recipe), {}), network)
                made = optimize(
                    network, recipe, images, folder, OptimizationOptions(target=target, against=before), progress
                )
            except Exception as error:  # noqa: BLE001 - a step may fail in any way, and the others are tried
                tried.append(TriedAdvice(advice, None, f"not built: {one_line(error)}"))
                continue
            progress("comparing, interleaved")
            kept = None if out is None else folder
            try:
                compared = compare([found.artefact.folder, folder], file, target, rounds=3)
            except (RuntimeError, UserError) as error:
                tried.append(TriedAdvice(advice, None, f"not measured: {one_line(error)}", kept, made.accuracy))
                continue
            tried.append(TriedAdvice(advice, compared.ratio(1), None, kept, made.accuracy))
    return replace(found, tried=tuple(tried))


def _before(artefact: Artefact, network: RecipeSource, target: Target) -> tuple[str, Find]:
    """Return the name and the detector of the artefact that advice is for.

    Raises:
        UserError: its classes differ from the network's, or it cannot be loaded.
    """
    if artefact.classes != network.classes:
        told = f"{artefact.folder} finds {', '.join(artefact.classes)}"
        raise UserError(f"{told}; {network.folder} finds {', '.join(network.classes)}")
    return str(artefact.folder), load_predictor(artefact.folder, target)


def write_advice(found: AdviceReport, folder: Path) -> None:
    """Write a page, the predictions as JSON, and a recipe for each piece of advice, the best first.

    Raises:
        UserError: the folder exists or cannot be written.
    """
    if folder.exists():
        raise UserError(f"{folder} exists already; name a new folder with --out")
    try:
        with new_folder(folder) as draft:
            for number, one in enumerate(found.advice, start=1):
                told = f"# {one.knob}: {one.predicted:.2f}x predicted; {one.why}\n"
                recipe = told + yaml.safe_dump(_plain(one.recipe), sort_keys=False)
                (draft / f"{_name(number, one)}.yaml").write_text(recipe)
            (draft / FILE).write_text(json.dumps(found.tree(), indent=1))
            (draft / PAGE).write_text(_page(found))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def write_tried(found: AdviceReport, folder: Path) -> None:
    """Write the report with measured gains into the folder of the advice.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        write_text(folder / FILE, json.dumps(found.tree(), indent=1))
        write_text(folder / PAGE, _page(found))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror})") from error


def _name(number: int, advice: Advice) -> str:
    """Return the stem of the files of a piece of advice."""
    return f"{number}-{advice.knob.replace(': ', '-').replace(' ', '-')}"


def _page(found: AdviceReport) -> str:
    from paretune.reports.advice_page import advice_page

    name = str(found.artefact.folder)
    return advice_page(name, found.diagnosis, found.advice, found.measured, found.notes, found.changes)


def _plain(value: Any) -> Any:
    """Return data as types that YAML can represent."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _shown(images: RecipeImages, split: str, target: Target, progress: Progress) -> Sequence[Image]:
    data = images.dataset.open(images.cache)
    for line in lines_of(data):
        progress(line)
    with shared_device(target.device):  # decoding keeps a core busy
        found = measuring_images(split_of(data, split))
    if not found:
        raise UserError(f"--split {split}: holds no images to measure on")
    return found
